package config

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// Profiles lists the names of the ready-made timings.
func Profiles() []string { return []string{"default", "fast", "wan"} }

// readTiming takes a profile or three values by hand, never a mixture: a
// profile with one value changed would still be called by its name.
func readTiming(t *table) Timing {
	defer t.finish()
	fallback, _ := lease.Profile(DefaultProfile)
	byHand := false
	for _, key := range []string{"beat", "promise", "epsilon"} {
		if _, ok := t.get(key); ok {
			byHand = true
		}
	}
	_, named := t.get("profile")
	if !byHand {
		name, _ := t.choice("profile", DefaultProfile, Profiles()...)
		timing, ok := lease.Profile(name)
		if !ok {
			return Timing{Timing: fallback}
		}
		return Timing{Profile: name, Timing: timing}
	}
	if named {
		t.bad("profile", "keep profile, or beat, promise and epsilon, but not both", "set together with values by hand")
		return Timing{Timing: fallback}
	}
	before := len(t.r.problems)
	beat := t.handDuration("beat", time.Millisecond, 5*time.Second)
	promise := t.handDuration("promise", 10*time.Millisecond, time.Minute)
	epsilon := t.handDuration("epsilon", time.Millisecond, 10*time.Second)
	if len(t.r.problems) > before {
		return Timing{Timing: fallback}
	}
	timing, err := lease.Derive(beat, promise, epsilon)
	if err != nil {
		key := "promise"
		if epsilon >= promise/2 {
			key = "epsilon"
		} else if beat > promise/8 {
			key = "beat"
		}
		t.bad(key, `write a longer promise or a shorter beat and epsilon, or profile = "default"`, "%v", err)
		return Timing{Timing: fallback}
	}
	return Timing{Timing: timing}
}

func (t *table) handDuration(key string, low, high time.Duration) time.Duration {
	if _, ok := t.get(key); !ok {
		t.bad(key, "write beat, promise and epsilon together, or use a profile", "missing")
		return low
	}
	return t.duration(key, low, low, high, false)
}
