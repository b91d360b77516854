package lease

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

// The table of the design page: beat, P, eps and the derived L.
func TestTimingProfiles(t *testing.T) {
	for _, tc := range []struct {
		name string
		want Timing
	}{
		{"default", Timing{50 * ms, 500 * ms, 20 * ms, 391 * ms}},
		{"fast", Timing{10 * ms, 120 * ms, 5 * ms, 93 * ms}},
		{"wan", Timing{200 * ms, 2000 * ms, 50 * ms, 1591 * ms}},
	} {
		got, ok := Profile(tc.name)
		if !ok || got != tc.want {
			t.Errorf("profile %s is %+v, %v; want %+v", tc.name, got, ok, tc.want)
		}
		if m := got.Margin(); m < 0 || m >= 2*ms {
			t.Errorf("profile %s has margin %v, want less than the 1ms that rounding L costs", tc.name, m)
		}
	}
	if _, ok := Profile("slow"); ok {
		t.Error("an unknown profile was found")
	}
}

func TestTimingRefusals(t *testing.T) {
	for _, tc := range []struct {
		name                   string
		beat, promise, epsilon time.Duration
	}{
		{"no beat", 0, 500 * ms, 20 * ms},
		{"tiny beat", 1, 500 * ms, 20 * ms},
		{"beat over a fifth", 79 * ms, 500 * ms, 20 * ms},
		{"beat over promise", time.Hour, 500 * ms, 20 * ms},
		{"no promise", 50 * ms, 0, 20 * ms},
		{"negative promise", 50 * ms, -500 * ms, 20 * ms},
		{"endless promise", 50 * ms, 61 * time.Second, 20 * ms},
		{"no epsilon", 50 * ms, 500 * ms, 0},
		{"epsilon eats the lease", 50 * ms, 500 * ms, 455 * ms},
		{"epsilon over promise", 50 * ms, 500 * ms, time.Second},
	} {
		if got, err := Derive(tc.beat, tc.promise, tc.epsilon); !errors.Is(err, ErrTiming) {
			t.Errorf("%s: got %+v, %v", tc.name, got, err)
		}
	}
	if _, err := Derive(78*ms, 500*ms, 20*ms); err != nil {
		t.Errorf("a beat of just a fifth: %v", err)
	}
}

func TestTimingCheck(t *testing.T) {
	good, _ := Profile("default")
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	long := good
	long.Lease++ // 101.01µs of margin are gone after 91µs
	if err := long.Check(); err != nil {
		t.Errorf("one nanosecond is within the margin: %v", err)
	}
	long.Lease = good.Lease + ms
	if err := long.Check(); !errors.Is(err, ErrTiming) {
		t.Errorf("one millisecond too long: %v", err)
	}
	if m := long.Margin(); m >= 0 {
		t.Errorf("margin of a lease that is too long is %v", m)
	}
	same := good
	same.Lease = same.Promise
	if err := same.Check(); !errors.Is(err, ErrTiming) {
		t.Errorf("L = P: %v", err)
	}
}

// The derived lease keeps L/(1-rho) + eps <= P/(1+rho) exactly, and is the
// longest whole millisecond that does.
func TestTimingInequalityExact(t *testing.T) {
	slack := func(l, p, e time.Duration) *big.Rat {
		right := big.NewRat(int64(p)*10, 11)
		left := big.NewRat(int64(l)*10, 9)
		left.Add(left, big.NewRat(int64(e), 1))
		return right.Sub(right, left)
	}
	rapid.Check(t, func(t *rapid.T) {
		promise := time.Duration(rapid.Int64Range(int64(20*ms), int64(maxPromise)).Draw(t, "promise"))
		epsilon := time.Duration(rapid.Int64Range(1, int64(promise)/3).Draw(t, "epsilon"))
		got, err := Derive(ms, promise, epsilon)
		if err != nil {
			t.Fatal(err)
		}
		if s := slack(got.Lease, promise, epsilon); s.Sign() < 0 {
			t.Fatalf("%+v overshoots by %v", got, s)
		}
		if s := slack(got.Lease+ms, promise, epsilon); s.Sign() >= 0 {
			t.Fatalf("%+v could be a millisecond longer", got)
		}
		margin := new(big.Rat).Sub(slack(got.Lease, promise, epsilon), big.NewRat(int64(got.Margin()), 1))
		if margin.Sign() < 0 || margin.Cmp(big.NewRat(1, 1)) >= 0 {
			t.Fatalf("margin %v is off by %v", got.Margin(), margin)
		}
	})
}
