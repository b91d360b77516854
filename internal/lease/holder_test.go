package lease

import (
	"errors"
	"testing"
	"time"
)

const lease = 391 * ms

var defaultTiming, _ = Profile("default")

// newHolder is node A's holder with voters A, B, C.
func newHolder() *Holder {
	h := NewHolder(nodeA, incA, defaultTiming)
	h.SetVoters(1, []uint64{nodeA, nodeB, nodeC})
	return h
}

func begin(t *testing.T, h *Holder, epoch uint64) {
	t.Helper()
	if err := h.Begin(0, epoch); err != nil {
		t.Fatal(err)
	}
}

func ackOf(epoch, seq uint64) Ack { return Ack{Epoch: epoch, Incarnation: incA, Sequence: seq} }

func wantWindow(t *testing.T, h *Holder, deadline int64) {
	t.Helper()
	w, ok := h.Window(0)
	if ok != (deadline != 0) || w.Deadline != deadline || ok && w.Deadline != w.Sent+int64(lease) {
		t.Fatalf("window %+v, %v; want deadline %d", w, ok, deadline)
	}
}

func TestG8DeadlineCountsFromSend(t *testing.T) {
	h := newHolder()
	begin(t, h, 5)
	h.Request(at(0), 1)
	if _, advanced := h.Ack(nodeA, ackOf(5, 1)); advanced {
		t.Fatal("one of three opened")
	}
	wantWindow(t, h, 0)
	w, advanced := h.Ack(nodeB, ackOf(5, 1))
	if !advanced || w.Deadline != int64(lease) || w.Sent != 0 {
		t.Fatalf("majority gave %+v, %v", w, advanced)
	}
	h.Request(at(50), 2)
	h.Request(at(100), 3)
	h.Ack(nodeB, ackOf(5, 3))
	wantWindow(t, h, at(391)) // second newest is still the first request
	h.Ack(nodeC, ackOf(5, 2))
	wantWindow(t, h, at(50)+int64(lease))
	if got := h.AckedByMajoritySince(0); got != at(50) {
		t.Fatalf("acknowledged since %d, want %d", got, at(50))
	}
}

func TestG8MajorityBySize(t *testing.T) {
	for size, need := range map[int]int{1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 4} {
		h := NewHolder(1, incA, defaultTiming)
		var voters []uint64
		for v := range uint64(size) {
			voters = append(voters, v+1)
		}
		h.SetVoters(1, voters)
		begin(t, h, 5)
		h.Request(at(0), 1)
		for i, v := range voters {
			h.Ack(v, ackOf(5, 1))
			if _, ok := h.Window(0); ok != (i+1 >= need) {
				t.Errorf("%d of %d voters: open is %v", i+1, size, ok)
			}
		}
	}
}

// What a node acknowledged before it was a voter does not count later.
func TestG6AckOfANonVoter(t *testing.T) {
	h := newHolder()
	begin(t, h, 5)
	h.Request(at(0), 1)
	h.Ack(nodeA, ackOf(5, 1))
	h.Ack(9, ackOf(5, 1))
	h.SetVoters(2, []uint64{nodeA, nodeB, 9})
	wantWindow(t, h, 0)
}

func TestG8IgnoredAcks(t *testing.T) {
	for _, tc := range []struct {
		name string
		from uint64
		ack  Ack
	}{
		{"another epoch", nodeB, ackOf(4, 2)},
		{"a later epoch", nodeB, ackOf(6, 2)},
		{"another incarnation", nodeB, Ack{Epoch: 5, Incarnation: 12, Sequence: 2}},
		{"another group", nodeB, Ack{Group: 1, Epoch: 5, Incarnation: incA, Sequence: 2}},
		{"never sent", nodeB, ackOf(5, 3)},
		{"sent before the epoch began", nodeB, ackOf(5, 1)},
		{"no voter", 9, ackOf(5, 2)},
		{"the same voter twice", nodeA, ackOf(5, 2)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHolder()
			h.Request(at(0), 1)
			begin(t, h, 5)
			h.Request(at(50), 2)
			h.Ack(nodeA, ackOf(5, 2))
			if _, advanced := h.Ack(tc.from, tc.ack); advanced {
				t.Fatal("counted")
			}
			wantWindow(t, h, 0)
		})
	}
}

func TestG8DeadlineNeverGoesBack(t *testing.T) {
	h := newHolder()
	begin(t, h, 5)
	h.Request(at(0), 1)
	h.Request(at(50), 2)
	h.Ack(nodeA, ackOf(5, 2))
	h.Ack(nodeB, ackOf(5, 2))
	wantWindow(t, h, at(50)+int64(lease))
	if _, advanced := h.Ack(nodeB, ackOf(5, 1)); advanced { // reordered
		t.Fatal("an older acknowledgement moved the window")
	}
	h.Ack(nodeC, ackOf(5, 1))
	wantWindow(t, h, at(50)+int64(lease))
	// Not by another configuration either: what was granted stands.
	h.SetVoters(2, []uint64{nodeA, nodeC, 4})
	wantWindow(t, h, at(50)+int64(lease))
	if got := h.AckedByMajoritySince(0); got != at(0) {
		t.Fatalf("the new voters have acknowledged since %d, want 0", got)
	}
	h.SetVoters(3, []uint64{4, 6, 7})
	if got := h.AckedByMajoritySince(0); got != 0 {
		t.Fatalf("nobody of the new voters has acknowledged, got %d", got)
	}
}

func TestG8SentTimesAreBounded(t *testing.T) {
	h := newHolder()
	begin(t, h, 5)
	for seq := uint64(1); seq <= 5*maxSent; seq++ {
		h.Request(int64(seq), seq)
		if len(h.sent.beats) > 2*maxSent {
			t.Fatalf("%d sent times kept", len(h.sent.beats))
		}
	}
	oldest := uint64(5*maxSent - maxSent + 1)
	h.Ack(nodeA, ackOf(5, oldest))
	h.Ack(nodeB, ackOf(5, oldest-1))
	wantWindow(t, h, 0)
	h.Ack(nodeB, ackOf(5, oldest))
	wantWindow(t, h, int64(oldest)+int64(lease))
}

func TestG8SequenceRises(t *testing.T) {
	h := newHolder()
	h.Request(at(0), 5)
	defer func() {
		if recover() == nil {
			t.Fatal("a sequence was used twice")
		}
	}()
	h.Request(at(1), 5)
}

func TestRequestNamesWhatIsHeld(t *testing.T) {
	h := newHolder()
	if got := h.Request(at(0), 1); got != nil {
		t.Fatalf("asks for %+v while holding nothing", got)
	}
	for _, g := range []uint16{7, 2, 5} {
		if err := h.Begin(g, uint64(g)+100); err != nil {
			t.Fatal(err)
		}
	}
	got := h.Request(at(1), 2)
	for i, g := range []uint16{2, 5, 7} {
		want := Request{Node: nodeA, Incarnation: incA, Group: g, Epoch: uint64(g) + 100, Config: 1, Sequence: 2}
		if got[i] != want {
			t.Fatalf("request %d is %+v, want %+v", i, got[i], want)
		}
	}
}

func TestG3HigherEpochShown(t *testing.T) {
	h := newHolder()
	begin(t, h, 5)
	for _, tc := range []struct {
		r    Refusal
		want bool
	}{
		{Refusal{Epoch: 5, Highest: 6, Reason: OldEpoch}, true},
		{Refusal{Epoch: 4, Highest: 6, Reason: OldEpoch}, true},
		{Refusal{Epoch: 5, Highest: 5, Reason: GrantedElsewhere}, false},
		{Refusal{Epoch: 4, Highest: 5, Reason: OldEpoch}, false}, // of the epoch before
		{Refusal{Group: 1, Epoch: 5, Highest: 6, Reason: OldEpoch}, false},
	} {
		if got := h.Refused(nodeB, tc.r); got != tc.want {
			t.Errorf("%+v: higher is %v", tc.r, got)
		}
	}
}

func TestG4MajorityOfEveryHalf(t *testing.T) {
	h := NewHolder(nodeA, incA, defaultTiming)
	begin(t, h, 5)
	h.Request(at(0), 1)
	h.Ack(nodeA, ackOf(5, 1))
	wantWindow(t, h, 0) // no configuration yet
	h.SetVoters(10, []uint64{1, 2, 3}, []uint64{3, 4, 5})
	h.Request(at(50), 2)
	for _, from := range []uint64{1, 2, 3} {
		h.Ack(from, ackOf(5, 2))
	}
	wantWindow(t, h, 0) // all of the old, one of the new
	h.Ack(4, ackOf(5, 2))
	wantWindow(t, h, at(50)+int64(lease))
	h.Request(at(100), 3)
	for _, from := range []uint64{3, 4, 5} {
		h.Ack(from, ackOf(5, 3))
	}
	wantWindow(t, h, at(50)+int64(lease)) // the old half lags
	h.SetVoters(10, []uint64{3, 4, 5})    // and is dropped
	wantWindow(t, h, at(100)+int64(lease))
}

func TestG4VotersRefused(t *testing.T) {
	for name, f := range map[string]func(h *Holder){
		"no half":       func(h *Holder) { h.SetVoters(2) },
		"empty half":    func(h *Holder) { h.SetVoters(2, []uint64{1}, nil) },
		"older config":  func(h *Holder) { h.SetVoters(0, []uint64{1}) },
		"unsafe timing": func(*Holder) { NewHolder(1, 1, Timing{50 * ms, promise, 20 * ms, promise}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHolder()
			defer func() {
				if recover() == nil {
					t.Fatal("accepted")
				}
			}()
			f(h)
		})
	}
}

func TestG4VoterNamedTwiceIsOneVote(t *testing.T) {
	h := NewHolder(nodeA, incA, defaultTiming)
	h.SetVoters(1, []uint64{2, 1, 1, 3})
	begin(t, h, 5)
	h.Request(at(0), 1)
	h.Ack(1, ackOf(5, 1))
	wantWindow(t, h, 0)
	h.Ack(2, ackOf(5, 1))
	wantWindow(t, h, int64(lease))
}

func TestG7ReleasedEpochNeverBeginsAgain(t *testing.T) {
	h := newHolder()
	if _, ok := h.Release(0); ok {
		t.Fatal("released nothing")
	}
	begin(t, h, 5)
	if e, ok := h.Holding(0); !ok || e != 5 {
		t.Fatalf("holding %d, %v", e, ok)
	}
	h.Request(at(0), 1)
	h.Ack(nodeA, ackOf(5, 1))
	if e, ok := h.Release(0); !ok || e != 5 {
		t.Fatalf("released %d, %v", e, ok)
	}
	if err := h.Begin(0, 5); !errors.Is(err, ErrEpochReleased) {
		t.Fatalf("began a released epoch: %v", err)
	}
	for _, epoch := range []uint64{0, 4} {
		if err := h.Begin(0, epoch); !errors.Is(err, ErrEpochUsed) {
			t.Fatalf("began epoch %d: %v", epoch, err)
		}
	}
	// A late acknowledgement finds nothing to open.
	h.Ack(nodeB, ackOf(5, 1))
	wantWindow(t, h, 0)
	if got := h.Request(at(50), 2); got != nil {
		t.Fatalf("still asks: %+v", got)
	}
	begin(t, h, 6)
	if err := h.Begin(0, 6); !errors.Is(err, ErrEpochUsed) {
		t.Fatalf("began an epoch twice: %v", err)
	}
	if err := h.Begin(1, 5); err != nil {
		t.Fatalf("another group: %v", err)
	}
	if got := h.AckedByMajoritySince(9); got != 0 {
		t.Fatalf("unknown group acknowledged at %d", got)
	}
}

func TestSetTiming(t *testing.T) {
	fast, _ := Profile("fast")
	h := newHolder()
	begin(t, h, 5)
	h.Request(at(0), 1)
	h.Ack(nodeA, ackOf(5, 1))
	h.Ack(nodeB, ackOf(5, 1))
	h.SetTiming(fast)
	wantWindow(t, h, int64(lease)) // bought with the longer promise
	h.Request(at(400), 2)
	h.Ack(nodeA, ackOf(5, 2))
	w, _ := h.Ack(nodeB, ackOf(5, 2))
	if w.Deadline != at(400)+int64(93*ms) {
		t.Fatalf("window %+v, want the fast lease", w)
	}
	// Longer again: what was acknowledged under the short promise does not
	// buy a long lease.
	h.Request(at(410), 3)
	h.SetTiming(defaultTiming)
	h.Ack(nodeA, ackOf(5, 3))
	if w, advanced := h.Ack(nodeB, ackOf(5, 3)); advanced {
		t.Fatalf("a short promise bought %+v", w)
	}
	h.Request(at(420), 4)
	h.Ack(nodeA, ackOf(5, 4))
	if w, advanced := h.Ack(nodeB, ackOf(5, 4)); !advanced || w.Deadline != at(420)+int64(lease) {
		t.Fatalf("window %+v, %v", w, advanced)
	}
}

// The bound is tight: with a slow holder, fast voters, no delay and the whole
// of epsilon used, the second gate opens within a millisecond or two of true
// time after the first has closed, and a lease 2 ms longer overlaps.
func TestBoundIsTight(t *testing.T) {
	for _, tc := range []struct {
		name    string
		lease   time.Duration
		overlap bool
	}{
		{"derived", lease, false},
		{"2 ms longer", lease + 2*ms, true},
		{"L = P", promise, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHolder()
			h.leaseNs = int64(tc.lease)
			begin(t, h, 5)
			v := openVoter()
			ack, _ := v.Request(0, h.Request(0, 1)[0]) // sent and received at true 0
			h.Ack(nodeA, ack)
			w, _ := h.Ack(nodeB, ack)
			// The holder's clock runs at 0.9, the voter's at 1.1.
			closed := w.Deadline*10/9 + int64(20*ms)
			granted := int64(-1)
			for now := int64(0); granted < 0; now += int64(ms) / 10 {
				if _, refused := v.Request(now, reqB(6, uint64(now)+1)); refused == nil {
					granted = now * 10 / 11
				}
			}
			if (granted < closed) != tc.overlap {
				t.Fatalf("first gate closed at %d, second granted at %d", closed, granted)
			}
			if !tc.overlap && granted-closed > int64(2*ms) {
				t.Fatalf("%v were given away", time.Duration(granted-closed))
			}
		})
	}
}
