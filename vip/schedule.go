package vip

import (
	"math"
	"time"
)

const (
	// roundGap is the least distance of two rounds, whatever asks for them,
	// and the period of the repetition after a silent holder.
	roundGap = 100 * time.Millisecond

	// burstGap spreads the rounds of a burst: Linux ignores a second change of
	// a neighbour entry within about 1 s (LOCKTIME in neigh_update).
	burstGap = 1100 * time.Millisecond

	burstRounds = 3

	// claimGap limits the answers to foreign claims of the address, so that
	// whoever claims it all the time does not make us flood the network.
	claimGap = 200 * time.Millisecond

	// DefaultRefresh is the period of announcements while nothing happens; it
	// keeps switch tables from aging out.
	DefaultRefresh = 60 * time.Second

	never = math.MaxInt64
)

// Reason says why an address is announced again.
type Reason uint8

// Reasons for Trigger.
const (
	// ForeignClaim: somebody else announced the address. Answered at once but
	// at most every 200 ms, and once more after 1.1 s.
	ForeignClaim Reason = iota + 1
	// LinkRestored: the carrier came back, perhaps on another switch port.
	LinkRestored
	// Resumed: the host ran again after a suspend or a pause.
	Resumed
	// Requested: an operator asked.
	Requested
)

// String returns the reason as logs and metrics write it.
func (r Reason) String() string {
	switch r {
	case ForeignClaim:
		return "foreign_claim"
	case LinkRestored:
		return "link_restored"
	case Resumed:
		return "resumed"
	case Requested:
		return "requested"
	}
	return "unknown"
}

// ScheduleOptions configure a Schedule.
type ScheduleOptions struct {
	// Refresh is the period while nothing happens; 0 means DefaultRefresh.
	Refresh time.Duration
	// Repeat is how long to announce every 100 ms after the acquisition: 2 P
	// when the address was taken from a holder that had gone silent, which may
	// be a paused machine about to go on; 0 after an orderly handover.
	Repeat time.Duration
}

// Schedule says when the holder of an address announces it: a burst of three
// rounds 1.1 s apart after the acquisition and after most triggers, a refresh
// in quiet times, never two rounds within 100 ms. It is a plain value without
// clock or goroutine: now is CLOCK_BOOTTIME in nanoseconds. The owner drops it
// when it stops holding.
type Schedule struct {
	refresh time.Duration

	last        int64 // instant of the last round
	burstLeft   int   // rounds still owed by the burst
	burstAt     int64 // next of them; never when burstLeft is 0
	repeatAt    int64 // next repetition, never when over
	repeatUntil int64
	claimAt     int64 // pending answer to a foreign claim, never when none
	claimAfter  int64 // no answer before this
	// followUps are second answers, one for each foreign claim answered within
	// the last burstGap, earliest first; at most burstGap/claimGap + 1.
	followUps []int64
	refreshAt int64
}

// NewSchedule returns the schedule of an address acquired at now. Its first
// round is due at once.
func NewSchedule(now int64, o ScheduleOptions) *Schedule {
	if o.Refresh <= 0 {
		o.Refresh = DefaultRefresh
	}
	s := &Schedule{
		refresh:    o.Refresh,
		last:       math.MinInt64 / 2,
		burstLeft:  burstRounds,
		burstAt:    now,
		repeatAt:   never,
		claimAt:    never,
		claimAfter: now,
		refreshAt:  now + int64(o.Refresh),
	}
	if o.Repeat > 0 {
		s.repeatAt = now
		s.repeatUntil = now + int64(o.Repeat)
	}
	return s
}

// Next returns the instant of the next round. It is not after now when one is
// due already.
func (s *Schedule) Next() int64 {
	at := min(s.burstAt, s.repeatAt, s.claimAt, s.refreshAt)
	if len(s.followUps) > 0 {
		at = min(at, s.followUps[0])
	}
	return max(at, s.last+int64(roundGap))
}

// Due reports whether a round is due at now, and if so counts it as sent: the
// caller announces exactly when Due returns true. However late the call is,
// one round settles all that was due.
func (s *Schedule) Due(now int64) bool {
	if now < s.Next() {
		return false
	}
	s.last = now
	s.refreshAt = now + int64(s.refresh)
	if s.repeatAt <= now {
		s.repeatAt = now + int64(roundGap)
		if s.repeatAt > s.repeatUntil {
			s.repeatAt = never
		}
	}
	if s.burstAt <= now {
		// Spaced from the round that was sent, not from the one that was
		// planned: after a stall a receiver needs the distance as well.
		s.burstLeft--
		s.burstAt = now + int64(burstGap)
	}
	for len(s.followUps) > 0 && s.followUps[0] <= now {
		s.followUps = s.followUps[1:]
	}
	if s.claimAt <= now {
		s.claimAt = never
		s.claimAfter = now + int64(claimGap)
		// The answer may fall into the second in which the claim locked the
		// neighbours' entries. A later claim must not put this one off: a
		// locked entry ignored it, as it ignored our answer.
		s.followUps = append(s.followUps, now+int64(burstGap))
	}
	if s.burstLeft == 0 {
		s.burstAt = never
	}
	return true
}

// Trigger asks for announcements because of something that happened at now.
func (s *Schedule) Trigger(now int64, why Reason) {
	if why == ForeignClaim {
		s.claimAt = min(s.claimAt, max(now, s.claimAfter))
		return
	}
	s.burstLeft = burstRounds
	s.burstAt = now
}
