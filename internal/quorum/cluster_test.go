package quorum

import (
	"testing"
	"time"
)

func TestFirstElectionTakesPromiseAndFewMilliseconds(t *testing.T) {
	s := cluster(t, 1, "gw1", "gw2", "w1")
	start := s.now
	if !s.runUntil(2*time.Second, func() bool { return s.leader() != nil }) {
		t.Fatalf("no leader: %s", s.picture())
	}
	took := time.Duration(s.now - start)
	t.Logf("took %s, leader %s", took, s.leader().name)
	l := s.settle()
	if l.name != "gw1" || l.led != 1 {
		t.Fatalf("leader %s, OnLead called %d times: %s", l.name, l.led, s.picture())
	}
	if took > testP+20*time.Millisecond {
		t.Fatalf("first election took %s", took)
	}
}

func TestSilentLeaderIsReplacedAfterPromise(t *testing.T) {
	s := cluster(t, 2, "gw1", "gw2", "w1")
	l := s.settle()
	l.crash()
	start := s.now
	s.runUntil(5*time.Second, func() bool { return s.leader() != nil })
	took := time.Duration(s.now - start)
	t.Logf("took %s, leader %s", took, s.leader().name)
	if took > testP+15*time.Millisecond {
		t.Fatalf("took %s", took)
	}
}

func TestOverElectsAtOnce(t *testing.T) {
	s := cluster(t, 3, "gw1", "gw2", "w1")
	l := s.settle()
	l.kill()
	start := s.now
	s.runUntil(5*time.Second, func() bool { return s.leader() != nil })
	took := time.Duration(s.now - start)
	t.Logf("took %s, leader %s", took, s.leader().name)
	if took > 40*time.Millisecond {
		t.Fatalf("took %s", took)
	}
}
