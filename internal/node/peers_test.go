package node

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/transport"
)

const memory = time.Second

func beat(incarnation, sequence uint64) *transport.Beat {
	return &transport.Beat{Incarnation: incarnation, Sequence: sequence}
}

func TestPeerTakesEachBeatOnce(t *testing.T) {
	p := &peer{}
	for i, tc := range []struct {
		inc, seq uint64
		want     verdict
	}{
		{1, 5, beatRebirth},
		{1, 5, beatOld}, // the same on another path
		{1, 4, beatOld}, // overtaken
		{1, 6, beatNew},
		{2, 1, beatRebirth}, // a new worker
		{1, 6, beatOld},     // late, from the old one
	} {
		if got := p.take(int64(i+1), beat(tc.inc, tc.seq), memory); got != tc.want {
			t.Fatalf("beat %d (%d/%d): verdict %d, want %d", i, tc.inc, tc.seq, got, tc.want)
		}
	}
	if p.cloned(0) {
		t.Fatal("a restart counts as a clone")
	}
}

// A raft id that is alive twice gets no grant until one of them is over; one
// delayed datagram of a dead worker must not shut the node out for ever.
func TestPeerSeesClones(t *testing.T) {
	p := &peer{}
	p.take(1, beat(1, 5), memory)
	p.take(2, beat(2, 5), memory)
	if got := p.take(3, beat(1, 6), memory); got != beatClone || !p.cloned(3) {
		t.Fatalf("verdict %d, cloned %v", got, p.cloned(3))
	}
	if p.cloned(4 + int64(memory)) {
		t.Fatal("one sign of a clone lasts for ever")
	}
	p.end(1)
	if p.cloned(3) {
		t.Fatal("still cloned after one was declared over")
	}
	if got := p.take(5, beat(1, 7), memory); got != beatOver {
		t.Fatalf("a beat of an incarnation that is over: verdict %d", got)
	}
}

func TestPeerRemembersBoundedly(t *testing.T) {
	p := &peer{}
	for i := range uint64(1000) {
		p.take(int64(i+1), beat(i+1, 1), memory)
		p.end(i + 1)
	}
	if len(p.former) > maxFormer || len(p.over) > 4*maxFormer {
		t.Fatalf("remembers %d former and %d ended incarnations", len(p.former), len(p.over))
	}
}

func TestPeerHeard(t *testing.T) {
	p := &peer{}
	if p.heard(5, time.Hour) {
		t.Fatal("heard before the first beat")
	}
	p.take(10, beat(1, 1), memory)
	if !p.heard(20, 10) || p.heard(21, 10) {
		t.Fatal("heard counts the time wrongly")
	}
}
