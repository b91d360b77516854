package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

var families = []struct {
	name string
	vip  netip.Prefix
}{{"IPv4", lab.VIP4}, {"IPv6", lab.VIP6}}

func startProbe(t *testing.T, l *lab.Lab, vip netip.Prefix) *lab.Probe {
	t.Helper()
	p, err := l.StartProbe(lab.ProbeOptions{Target: vip.Addr()})
	if err != nil {
		t.Fatalf("start probe: %v", err)
	}
	return p
}

func stopProbe(t *testing.T, p *lab.Probe) *lab.Report {
	t.Helper()
	r, err := p.Stop()
	if err != nil {
		t.Fatalf("stop probe: %v", err)
	}
	if err := r.Valid(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v; late p99 %v max %v, longest pause %v, cpu %v (%.1f %% of a core)", r, r.LateP99, r.LateMax,
		r.LongestPause.Duration(), r.CPU, 100*float64(r.CPU)/float64(r.Stopped-r.Started))
	return r
}

func waitOwner(t *testing.T, p *lab.Probe, node string) {
	t.Helper()
	if _, err := p.WaitOwner(deadline(t), node); err != nil {
		t.Fatal(err)
	}
}

// measureFor lets a measurement run: the length is the thing measured, nothing
// is waited for by it.
func measureFor(d time.Duration) { time.Sleep(d) }

func own(t *testing.T, l *lab.Lab, node string, vip netip.Prefix) {
	t.Helper()
	if err := l.AddAddress(node, "eth0", vip); err != nil {
		t.Fatal(err)
	}
}

func disown(t *testing.T, l *lab.Lab, node string, vip netip.Prefix) {
	t.Helper()
	if err := l.DelAddress(node, "eth0", vip); err != nil {
		t.Fatal(err)
	}
}

func TestProbeSingleOwner(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1, Clients: 1})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			own(t, l, "gw1", f.vip)
			p := startProbe(t, l, f.vip)
			waitOwner(t, p, "gw1")
			measureFor(time.Second)
			r := stopProbe(t, p)
			if r.DoubleCount != 0 || r.AnswerDoubleCount != 0 || r.ChangeCount != 0 {
				t.Errorf("doubles %v and %v, changes %v of a single owner", r.Doubles, r.AnswerDoubles, r.Changes)
			}
			if len(r.Owners) != 1 || r.Owners[0].Node != "gw1" || r.Owners[0].Frames < r.Answered {
				t.Errorf("owners %+v, want gw1 alone with at least %d frames", r.Owners, r.Answered)
			}
			if r.Sent+r.Skipped < 900 || r.Answered < r.Sent-5 || r.Answered > r.Sent {
				t.Errorf("sent %d, answered %d in a second", r.Sent, r.Answered)
			}
			if r.Longest.Duration() > r.LongestPause.Duration()+100*time.Millisecond {
				t.Errorf("gap of %v with a steady owner", r.Longest.Duration())
			}
		})
	}
}

func TestProbeNobody(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 1, Clients: 1})
	p := startProbe(t, l, lab.VIP4)
	measureFor(300 * time.Millisecond)
	r := stopProbe(t, p)
	if r.Answered != 0 || r.Frames != 0 || len(r.Owners) != 0 {
		t.Errorf("answers of nobody: %+v", r)
	}
	if whole := time.Duration(r.Stopped - r.Started); r.Longest.Duration() != whole || len(r.Gaps) != 1 {
		t.Errorf("gap %v of %v, list %v", r.Longest.Duration(), whole, r.Gaps)
	}
}

func TestProbeSeesDoubleOwnerFromTheBeginning(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 1})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			own(t, l, "gw1", f.vip)
			own(t, l, "gw2", f.vip)
			p := startProbe(t, l, f.vip)
			waitOwner(t, p, "")
			measureFor(300 * time.Millisecond)
			r := stopProbe(t, p)
			if r.DoubleCount == 0 || r.AnswerDoubleCount == 0 {
				t.Fatalf("two owners not seen: %v", r)
			}
			if d := r.Doubles[0]; d.A == d.B || d.Duration() < 200*time.Millisecond {
				t.Errorf("double %+v, want gw1 and gw2 for the whole time", d)
			}
			if r.ChangeCount < 100 {
				t.Errorf("%d changes, want the two owners in turns", r.ChangeCount)
			}
		})
	}
}

func TestProbeSeesShortOverlap(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 1})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			own(t, l, "gw1", f.vip)
			p := startProbe(t, l, f.vip)
			waitOwner(t, p, "gw1")
			measureFor(100 * time.Millisecond)
			before := lab.Now()
			own(t, l, "gw2", f.vip)
			begun := lab.Now()
			measureFor(30 * time.Millisecond)
			ending := lab.Now()
			disown(t, l, "gw1", f.vip)
			after := lab.Now()
			measureFor(100 * time.Millisecond)
			r := stopProbe(t, p)
			if r.DoubleCount != 1 || r.AnswerDoubleCount != 1 {
				t.Fatalf("overlap of 30 ms: doubles %v, heard %v", r.Doubles, r.AnswerDoubles)
			}
			const slack = int64(10 * time.Millisecond) // some questions are a millisecond apart, some late
			d := r.Doubles[0]
			if d.Start < before || d.Start > begun+slack || d.End < ending-slack || d.End > after {
				t.Errorf("overlap measured as %d to %d, want %d..%d to %d..%d (ns)", d.Start, d.End, before, begun, ending, after)
			}
		})
	}
}

func TestProbeCleanMoveThereAndBack(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 1})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			own(t, l, "gw1", f.vip)
			p := startProbe(t, l, f.vip)
			waitOwner(t, p, "gw1")
			for _, move := range []struct{ from, to string }{{"gw1", "gw2"}, {"gw2", "gw1"}} {
				measureFor(100 * time.Millisecond)
				disown(t, l, move.from, f.vip)
				own(t, l, move.to, f.vip)
				waitOwner(t, p, move.to)
			}
			measureFor(100 * time.Millisecond)
			r := stopProbe(t, p)
			if r.DoubleCount != 0 || r.AnswerDoubleCount != 0 {
				t.Errorf("doubles of a clean move: %v, heard %v", r.Doubles, r.AnswerDoubles)
			}
			if r.ChangeCount != 2 || r.Changes[0].To != "gw2" || r.Changes[1].To != "gw1" {
				t.Errorf("changes %v, want to gw2 and back", r.Changes)
			}
		})
	}
}

// A host whose cable is cut silently and that goes on as owner is a double,
// although the client hears one owner only.
func TestProbeSeesOwnerBehindCutCable(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 1})
	own(t, l, "gw1", lab.VIP4)
	p := startProbe(t, l, lab.VIP4)
	waitOwner(t, p, "gw1")
	f, err := l.Mute("gw1")
	if err != nil {
		t.Fatal(err)
	}
	measureFor(50 * time.Millisecond)
	own(t, l, "gw2", lab.VIP4)
	waitOwner(t, p, "gw2")
	measureFor(100 * time.Millisecond)
	r := stopProbe(t, p)
	if r.DoubleCount == 0 || r.AnswerDoubleCount != 0 {
		t.Errorf("doubles %v, heard %v: want some on the cables, none heard", r.Doubles, r.AnswerDoubles)
	}
	if g := r.LongestSince(f.At); g != r.Longest || g.Duration() < 40*time.Millisecond {
		t.Errorf("longest gap since the fault %v, of all %v", g.Duration(), r.Longest.Duration())
	}
}

// Two interfaces of one host that both answer are one owner.
func TestProbeTwoInterfacesAreOneHost(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 1, Clients: 1, SecondNIC: []string{"gw1"}})
	own(t, l, "gw1", lab.VIP4)
	p := startProbe(t, l, lab.VIP4)
	waitOwner(t, p, "gw1")
	measureFor(200 * time.Millisecond)
	r := stopProbe(t, p)
	if len(r.Owners) != 2 || r.DoubleCount != 0 {
		t.Errorf("owners %+v, doubles %v: want two MACs of one host and no double", r.Owners, r.Doubles)
	}
}
