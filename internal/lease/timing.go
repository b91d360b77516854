package lease

import (
	"errors"
	"fmt"
	"time"
)

// The assumed worst error of a clock's rate, rho = rhoNum/rhoDen = 0.10, as
// integers, so that every node derives the same lease to the nanosecond.
// chrony may slew by 8.3 %, the kernel by 10 %.
const (
	rhoNum = 1
	rhoDen = 10
)

const (
	// minBeat keeps the rate of datagrams and of map writes bounded.
	minBeat = time.Millisecond
	// maxPromise bounds how long a silent holder can delay its successor, and
	// keeps the products below far from overflow.
	maxPromise = time.Minute
	// beatsPerLease is how many beats a lease must span: four may be lost.
	beatsPerLease = 5
)

// ErrTiming is wrapped by every refusal of a set of timing values.
var ErrTiming = errors.New("timing not safe")

// Timing is the set of times that all members of a cluster share.
//
// Invariants, with rho = 0.10:
//
//	Lease/(1-rho) + Epsilon <= Promise/(1+rho)
//	Beat <= Lease/5
type Timing struct {
	Beat    time.Duration // time between two requests of a holder
	Promise time.Duration // P: a voter grants to nobody else for so long after receipt
	Epsilon time.Duration // allowance for map writes, transmit queues and rounding
	Lease   time.Duration // L: the gate may be open for so long after sending
}

// Derive computes the longest lease, in whole milliseconds, that promise and
// epsilon allow. The error wraps [ErrTiming] and names the values and the
// limit that they break.
func Derive(beat, promise, epsilon time.Duration) (Timing, error) {
	t := Timing{Beat: beat, Promise: promise, Epsilon: epsilon}
	if err := t.checkRanges(); err != nil {
		return Timing{}, err
	}
	// L = (P/(1+rho) - eps) * (1-rho) with one division at the end.
	const up, down = rhoDen + rhoNum, rhoDen - rhoNum
	num := (int64(promise)*rhoDen - int64(epsilon)*up) * down
	if num > 0 {
		t.Lease = time.Duration(num / (up * rhoDen)).Truncate(time.Millisecond)
	}
	if err := t.Check(); err != nil {
		return Timing{}, err
	}
	return t, nil
}

// Profile returns the timing of a named profile: default, fast or wan.
func Profile(name string) (Timing, bool) {
	var beat, promise, epsilon time.Duration
	switch name {
	case "default":
		beat, promise, epsilon = 50*time.Millisecond, 500*time.Millisecond, 20*time.Millisecond
	case "fast":
		beat, promise, epsilon = 10*time.Millisecond, 120*time.Millisecond, 5*time.Millisecond
	case "wan":
		beat, promise, epsilon = 200*time.Millisecond, 2*time.Second, 50*time.Millisecond
	default:
		return Timing{}, false
	}
	t, err := Derive(beat, promise, epsilon)
	if err != nil {
		panic(fmt.Sprintf("lease: profile %s: %v", name, err))
	}
	return t, true
}

// Margin is what is left of the promise after the lease, both at their worst
// clock rates: P/(1+rho) - (L/(1-rho) + epsilon), rounded down to a
// nanosecond. A negative margin means that two gates could be open at once.
func (t Timing) Margin() time.Duration {
	const up, down = rhoDen + rhoNum, rhoDen - rhoNum
	num := int64(t.Promise)*rhoDen*down - int64(t.Lease)*rhoDen*up - int64(t.Epsilon)*up*down
	margin := num / (up * down)
	if num%(up*down) < 0 {
		margin-- // Go rounds towards zero; a deficit must not look smaller
	}
	return time.Duration(margin)
}

// Check refuses values that break an inequality of [Timing].
func (t Timing) Check() error {
	if err := t.checkRanges(); err != nil {
		return err
	}
	if t.Lease < time.Millisecond {
		return fmt.Errorf("%w: a promise of %v with an epsilon of %v leaves no lease of 1ms: lengthen the promise",
			ErrTiming, t.Promise, t.Epsilon)
	}
	if m := t.Margin(); m < 0 {
		return fmt.Errorf("%w: a lease of %v is %v too long for a promise of %v and an epsilon of %v",
			ErrTiming, t.Lease, -m, t.Promise, t.Epsilon)
	}
	if t.Beat*beatsPerLease > t.Lease {
		return fmt.Errorf("%w: a beat of %v is longer than a fifth of the lease of %v: shorten it to %v or lengthen the promise",
			ErrTiming, t.Beat, t.Lease, t.Lease/beatsPerLease)
	}
	return nil
}

func (t Timing) checkRanges() error {
	switch {
	case t.Beat < minBeat:
		return fmt.Errorf("%w: a beat of %v is shorter than %v", ErrTiming, t.Beat, minBeat)
	case t.Promise <= 0 || t.Promise > maxPromise:
		return fmt.Errorf("%w: a promise of %v is not between 0 and %v", ErrTiming, t.Promise, maxPromise)
	case t.Epsilon <= 0 || t.Epsilon >= t.Promise:
		return fmt.Errorf("%w: an epsilon of %v is not between 0 and the promise of %v", ErrTiming, t.Epsilon, t.Promise)
	case t.Beat > t.Promise:
		return fmt.Errorf("%w: a beat of %v is longer than the promise of %v", ErrTiming, t.Beat, t.Promise)
	}
	return nil
}
