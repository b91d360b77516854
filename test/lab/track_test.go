package lab

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"
)

const ms = int64(time.Millisecond)

var (
	hostA  = sender{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Port: 1}
	hostA2 = sender{MAC: [6]byte{2, 0, 0, 0, 0, 9}, Port: 9}
	hostB  = sender{MAC: [6]byte{2, 0, 0, 0, 0, 2}, Port: 2}
	byPort = names{ports: map[int]string{1: "a", 9: "a", 2: "b"}}
)

type frame struct {
	from sender
	at   int64 // ms
}

// stream is one frame a millisecond from a sender, both ends included.
func stream(s sender, from, to int64) []frame {
	var fs []frame
	for at := from; at <= to; at++ {
		fs = append(fs, frame{s, at})
	}
	return fs
}

func join(parts ...[]frame) []frame {
	var all []frame
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames []frame
		want   []overlap // in ms
	}{
		{"nobody", nil, nil},
		{"one", stream(hostA, 0, 100), nil},
		{"clean move", join(stream(hostA, 0, 100), stream(hostB, 101, 200)), nil},
		{"there and back", join(stream(hostA, 0, 100), stream(hostB, 101, 130), stream(hostA, 131, 200)), nil},
		{"single late frame of the old owner", join(stream(hostA, 0, 100), stream(hostB, 101, 110), stream(hostA, 111, 111), stream(hostB, 112, 200)),
			[]overlap{{Start: 101, End: 111}}},
		{"single frame in between", join(stream(hostA, 0, 100), stream(hostB, 101, 101), stream(hostA, 102, 200)),
			[]overlap{{Start: 101, End: 101}}},
		{"single frame of a stale owner much later", join(stream(hostA, 0, 10), stream(hostB, 11, 500), stream(hostA, 501, 501), stream(hostB, 502, 600)),
			[]overlap{{Start: 501, End: 501}}},
		{"30 ms", join(stream(hostA, 0, 130), stream(hostB, 100, 200)), []overlap{{Start: 100, End: 130}}},
		{"twice", join(stream(hostA, 0, 300), stream(hostB, 100, 110), stream(hostB, 200, 210)),
			[]overlap{{Start: 100, End: 110}, {Start: 200, End: 210}}},
		{"same instant", []frame{{hostA, 5}, {hostB, 5}}, []overlap{{Start: 5, End: 5}}},
		{"two interfaces of one host", join(stream(hostA, 0, 100), stream(hostA2, 0, 100)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newActivity(20 * time.Millisecond)
			for _, f := range c.frames {
				a.add(f.from, f.at*ms)
			}
			got, total := a.overlaps(byPort.different)
			if len(got) != len(c.want) || total != int64(len(c.want)) {
				t.Fatalf("overlaps %v (%d), want %v", got, total, c.want)
			}
			for i, w := range c.want {
				if got[i].Start != w.Start*ms || got[i].End != w.End*ms {
					t.Errorf("overlap %d: %d to %d, want %d to %d ms", i, got[i].Start/ms, got[i].End/ms, w.Start, w.End)
				}
			}
		})
	}
}

// TestOverlapsAgainstEveryPair compares the sweep with looking at every pair
// of frames: two frames of one host within the merge window with one of the
// other host between them are a double, and nothing else is.
func TestOverlapsAgainstEveryPair(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var frames []frame
		at := int64(0)
		for range rng.IntN(30) {
			at += 1 + rng.Int64N(30)
			frames = append(frames, frame{[]sender{hostA, hostB}[rng.IntN(2)], at})
		}
		a := newActivity(20 * time.Millisecond)
		for _, f := range frames {
			a.add(f.from, f.at*ms)
		}
		_, total := a.overlaps(byPort.different)
		if got, want := total > 0, interleaved(frames, 20); got != want {
			t.Fatalf("frames %v: double %v, want %v", frames, got, want)
		}
	}
}

// interleaved looks for a frame between two consecutive frames of the other
// host that are no further apart than the window.
func interleaved(frames []frame, window int64) bool {
	for i, f := range frames {
		var next *frame
		between := false
		for j := i + 1; j < len(frames) && next == nil; j++ {
			if frames[j].from == f.from {
				next = &frames[j]
			} else {
				between = true
			}
		}
		if next != nil && between && next.at-f.at <= window {
			return true
		}
	}
	return false
}

func TestActivityBounds(t *testing.T) {
	a := newActivity(0)
	for i := range int64(runLimit + 10) {
		a.add(hostA, i*2)
	}
	if !a.truncated || len(a.runs[hostA]) != runLimit {
		t.Errorf("truncated %v with %d runs", a.truncated, len(a.runs[hostA]))
	}
	b := newActivity(time.Millisecond)
	for i := range int64(2 * changeLimit) {
		b.add([]sender{hostA, hostB}[i%2], i)
	}
	if len(b.changes) != changeLimit || b.changed != 2*changeLimit-1 {
		t.Errorf("%d changes listed, %d counted", len(b.changes), b.changed)
	}
}

func TestActivitySurvivesJSON(t *testing.T) {
	a := newActivity(20 * time.Millisecond)
	for _, f := range join(stream(hostA, 0, 130), stream(hostB, 100, 200)) {
		a.add(f.from, f.at*ms)
	}
	raw, err := json.Marshal(a.list())
	if err != nil {
		t.Fatal(err)
	}
	var back senderRuns
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if _, total := back.activity(0).overlaps(byPort.different); total != 1 {
		t.Errorf("%d overlaps after the way through JSON", total)
	}
}

func TestSilence(t *testing.T) {
	s := newSilence(100*ms, 5*time.Millisecond)
	for _, at := range []int64{101, 102, 110, 111, 109, 111, 116, 200, 201} {
		s.answer(at * ms)
	}
	want := []Gap{{102 * ms, 110 * ms}, {116 * ms, 200 * ms}}
	if len(s.gaps) != 2 || s.gaps[0] != want[0] || s.gaps[1] != want[1] || s.longest != want[1] {
		t.Errorf("gaps %v, longest %v; want %v", s.gaps, s.longest, want)
	}
}

func TestLateness(t *testing.T) {
	var l lateness
	for range 980 {
		l.add(int64(15 * time.Microsecond))
	}
	for range 20 {
		l.add(int64(time.Second))
	}
	if l.p99() < 20*time.Millisecond || l.max != int64(time.Second) {
		t.Errorf("p99 %v, max %v", l.p99(), time.Duration(l.max))
	}
	l = lateness{}
	for range 1000 {
		l.add(int64(15 * time.Microsecond))
	}
	if l.p99() != 20*time.Microsecond {
		t.Errorf("p99 %v, want 20 us", l.p99())
	}
}
