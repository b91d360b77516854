package lab_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// A thief is seen as what it is: a double where nobody says that it is a
// stranger, nothing at all where somebody does.
func TestThiefIsAStranger(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 2})
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			own(t, l, "gw1", fam.vip)
			defer disown(t, l, "gw1", fam.vip)
			naive := startProbe(t, l, fam.vip)
			p, err := l.StartProbe(lab.ProbeOptions{Target: fam.vip.Addr(), Strangers: []string{"c2"}})
			if err != nil {
				t.Fatal(err)
			}
			waitOwner(t, p, "gw1")
			f, err := l.Steal("c2", fam.vip)
			if err != nil {
				t.Fatal(err)
			}
			measureFor(300 * time.Millisecond)
			undo(t, f)
			if has, err := l.HasAddress("c2", fam.vip.Addr()); err != nil || has {
				t.Errorf("the thief still has the address: %v, %v", has, err)
			}
			measureFor(100 * time.Millisecond)
			r := stopProbe(t, p)
			if r.DoubleCount != 0 || r.AnswerDoubleCount != 0 || r.ChangeCount != 0 {
				t.Errorf("doubles %v and %v, changes %v of a stranger", r.Doubles, r.AnswerDoubles, r.Changes)
			}
			if r.StrangerAnswers < 50 {
				t.Errorf("%d answers of the stranger in 300 ms", r.StrangerAnswers)
			}
			if r := stopProbe(t, naive); r.DoubleCount == 0 || r.Doubles[0].A != "c2" && r.Doubles[0].B != "c2" {
				t.Errorf("doubles %v of two who answer", r.Doubles)
			}
		})
	}
}

// A forged announcement makes the others believe another owner.
func TestForgedAnnouncementIsBelieved(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 2})
	own(t, l, "gw1", lab.VIP4)
	if !pings(t, l, "c1", lab.VIP4.Addr(), true) {
		t.Fatal("the owner is not reached")
	}
	gw2, err := l.Node("gw2")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.Forge("c2", lab.VIP4.Addr(), "gw2")
	if err != nil {
		t.Fatal(err)
	}
	defer undo(t, f)
	want := gw2.NICs[0].MAC.String()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := l.Run(deadline(t), "c1", "ip", "neigh", "show", lab.VIP4.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.Stdout, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("c1 still believes %s, not %s", out.Stdout, want)
		}
	}
}
