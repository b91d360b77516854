package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/scenario"
)

func TestPercentileByNearestRank(t *testing.T) {
	var values []time.Duration
	for i := 200; i >= 1; i-- {
		values = append(values, time.Duration(i))
	}
	for _, c := range []struct {
		values []time.Duration
		p      int
		want   time.Duration
	}{{values, 50, 100}, {values, 99, 198}, {values, 100, 200}, {values[:1], 50, 200}, {values[:3], 99, 200}, {nil, 99, 0}} {
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("%dth of %d values: %d, want %d", c.p, len(c.values), got, c.want)
		}
	}
}

func TestGoalIsMissedByDoublesAndFailures(t *testing.T) {
	good := scenario.Result{Gap: 10 * time.Millisecond}
	for _, c := range []struct {
		name string
		r    scenario.Result
		err  error
		met  bool
	}{
		{"quick", good, nil, true},
		{"slow", scenario.Result{Gap: 30 * time.Millisecond}, nil, false},
		{"two owners", scenario.Result{Gap: time.Millisecond, Doubles: 1}, nil, false},
		{"failed", good, errors.New("not served again"), false},
	} {
		s := series{goal: 20 * time.Millisecond}
		s.take(good, nil)
		s.take(c.r, c.err)
		if s.met() != c.met || s.rounds() != 2 {
			t.Errorf("%s: met %v after %d rounds", c.name, s.met(), s.rounds())
		}
	}
}

func TestEveryScenarioBesideOneOfKeepalived(t *testing.T) {
	faults := map[string]bool{}
	for _, f := range rivalFaults {
		faults[f.id] = true
	}
	for ours, theirs := range rivalOf {
		if _, ok := scenario.Find(ours); !ok || !faults[theirs] {
			t.Errorf("%s beside %s: one of them does not exist", ours, theirs)
		}
	}
}

func TestPageSaysWhatWasMissedAndNotMeasured(t *testing.T) {
	s := &series{title: "some fault", goal: time.Millisecond, gaps: []time.Duration{time.Second}, errors: []string{"not served"}}
	p := &page{
		rows: map[string][]*series{"default": {s}}, ready: map[string]*readiness{}, rivals: map[string][]*series{},
		noRival: "keepalived is not installed", noGate: "no compiler",
	}
	text := p.markdown()
	for _, want := range []string{
		"| some fault | 2 | 1000 ms | 1000 ms | 1000 ms | 0 | 1.0 ms | **missed** |",
		"Failed round of “some fault”: not served", "Not measured: keepalived is not installed.", "Not measured: no compiler.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
}
