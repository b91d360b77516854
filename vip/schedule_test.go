package vip

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = int64(time.Millisecond)

// rounds runs s on a fake clock with 1 ms steps and returns the instants of
// its rounds in ms. Triggers happen before the question in the same step.
func rounds(s *Schedule, start, end int64, triggers map[int64]Reason) []int64 {
	var at []int64
	for now := start; now <= end; now++ {
		if why, ok := triggers[now]; ok {
			s.Trigger(now*ms, why)
		}
		if s.Due(now * ms) {
			at = append(at, now)
		}
	}
	return at
}

func TestSchedule(t *testing.T) {
	every100 := func(from, to int64) (at []int64) {
		for i := from; i <= to; i += 100 {
			at = append(at, i)
		}
		return at
	}
	for _, tc := range []struct {
		name     string
		options  ScheduleOptions
		end      int64
		triggers map[int64]Reason
		want     []int64
	}{
		{name: "acquired", end: 70_000, want: []int64{0, 1100, 2200, 62_200}},
		{name: "short refresh", options: ScheduleOptions{Refresh: 500 * time.Millisecond}, end: 2500,
			want: []int64{0, 500, 1000, 1100, 1600, 2100, 2200}},
		{name: "silent holder, P 500 ms", options: ScheduleOptions{Repeat: time.Second}, end: 5000,
			want: append(every100(0, 1000), 1100, 2200)},
		{name: "silent holder, P 2 s", options: ScheduleOptions{Repeat: 4 * time.Second}, end: 10_000,
			want: every100(0, 4000)},
		{name: "link restored", end: 12_000, triggers: map[int64]Reason{5000: LinkRestored},
			want: []int64{0, 1100, 2200, 5000, 6100, 7200}},
		{name: "resumed inside a burst", end: 12_000, triggers: map[int64]Reason{1500: Resumed},
			want: []int64{0, 1100, 1500, 2600, 3700}},
		{name: "two reasons at once", end: 9000,
			triggers: map[int64]Reason{5000: Resumed, 5001: LinkRestored, 5002: Requested},
			want:     []int64{0, 1100, 2200, 5000, 5100, 6200, 7300}},
		{name: "foreign claim", end: 9000, triggers: map[int64]Reason{5000: ForeignClaim},
			want: []int64{0, 1100, 2200, 5000, 6100}},
		{name: "foreign claims in a row", end: 9000,
			triggers: map[int64]Reason{5000: ForeignClaim, 5001: ForeignClaim, 5050: ForeignClaim, 5199: ForeignClaim, 5350: ForeignClaim},
			want:     []int64{0, 1100, 2200, 5000, 5200, 5400, 6100, 6300, 6500}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := rounds(NewSchedule(0, tc.options), 0, tc.end, tc.triggers)
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Fatalf("rounds at %v ms, want %v", got, tc.want)
			}
		})
	}
}

// After a stall one round is sent, and the burst keeps its distances.
func TestScheduleAfterStall(t *testing.T) {
	s := NewSchedule(0, ScheduleOptions{Repeat: time.Second})
	got := rounds(s, 30_000, 40_000, nil)
	if want := []int64{30_000, 31_100, 32_200}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("rounds at %v ms, want %v", got, want)
	}
	if next := s.Next(); next != (32_200+60_000)*ms {
		t.Fatalf("next round at %d ms", next/ms)
	}
}

func TestReasonNames(t *testing.T) {
	for r, want := range map[Reason]string{
		0: "unknown", ForeignClaim: "foreign_claim", LinkRestored: "link_restored",
		Resumed: "resumed", Requested: "requested",
	} {
		if r.String() != want {
			t.Errorf("reason %d is %q, want %q", r, r, want)
		}
	}
}

// Whatever happens, and however late the owner asks: rounds keep their
// distance, quiet never lasts longer than the refresh, every trigger gets its
// round within 300 ms, and every foreign claim one more after a second.
func TestScheduleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1<<60).Draw(t, "start")
		refresh := time.Duration(rapid.SampledFrom([]int64{200, 5000, 60_000}).Draw(t, "refresh") * ms)
		repeat := time.Duration(rapid.SampledFrom([]int64{0, 240, 1000, 4000}).Draw(t, "repeat") * ms)
		s := NewSchedule(start, ScheduleOptions{Refresh: refresh, Repeat: repeat})
		now, last := start, int64(-1)
		// Obligations: a round not before "from", not after "by".
		type owed struct{ from, by int64 }
		const grace = int64(claimGap + roundGap)
		debts := []owed{{now, now}}
		ask := func() {
			due, next := false, s.Next()
			if due = s.Due(now); due != (now >= next) {
				t.Fatalf("due %v at %d with next round at %d", due, now, next)
			}
			if due {
				if last >= 0 && now-last < int64(roundGap) {
					t.Fatalf("rounds at %d and %d", last, now)
				}
				last = now
				var left []owed
				for _, d := range debts {
					if now < d.from {
						left = append(left, d)
					}
				}
				debts = left
			}
			for _, d := range debts {
				if now > d.by {
					t.Fatalf("no round from %d until %d", d.from, now)
				}
			}
			if len(s.followUps) > int(burstGap/claimGap)+1 {
				t.Fatalf("%d follow-ups pending", len(s.followUps))
			}
			if n := s.Next(); n <= now && due || n > last+int64(refresh)+int64(roundGap) && last >= 0 {
				t.Fatalf("last round at %d, next at %d", last, n)
			}
		}
		ask()
		for range rapid.SampledFrom([]int{5, 50, 200}).Draw(t, "steps") {
			if rapid.SampledFrom([]bool{true, false, false, false}).Draw(t, "trigger") {
				why := rapid.SampledFrom([]Reason{ForeignClaim, LinkRestored, Resumed, Requested}).Draw(t, "reason")
				s.Trigger(now, why)
				debts = append(debts, owed{now, now + grace})
				if why == ForeignClaim {
					debts = append(debts, owed{now + int64(burstGap), now + grace + int64(burstGap+roundGap)})
				}
				ask()
				continue
			}
			// The owner sleeps until Next, or is woken before.
			sleep := rapid.SampledFrom([]int64{1, 10, 90, 150, 400, 1000, 3000, 100_000}).Draw(t, "sleep")
			now = max(now, min(now+sleep*ms, s.Next()))
			ask()
		}
	})
}
