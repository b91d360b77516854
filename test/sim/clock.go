package sim

import (
	"math"
	"time"
)

// bootClock is the CLOCK_BOOTTIME of one boot of one host: pieces of a straight
// line each, with the rate that holds from an instant on.
type bootClock struct{ pieces []piece }

type piece struct {
	at, local int64
	ppm       int64 // error of the rate in millionths; stopped while frozen
}

const (
	million = 1_000_000
	stopped = -million
)

const never = math.MaxInt64

func newBootClock(at, local, ppm int64) *bootClock {
	return &bootClock{[]piece{{at, local, ppm}}}
}

func (p piece) local_(t int64) int64 {
	d := t - p.at
	return p.local + d + d*p.ppm/million
}

// local returns what the clock reads at true time t.
func (c *bootClock) local(t int64) int64 { return c.piece(t).local_(t) }

func (c *bootClock) piece(t int64) piece {
	for i := len(c.pieces) - 1; i > 0; i-- {
		if c.pieces[i].at <= t {
			return c.pieces[i]
		}
	}
	return c.pieces[0]
}

// when returns the first true time at which the clock reads local or more, as
// far as is known by now: a freeze that begins later makes it later.
func (c *bootClock) when(local int64) int64 {
	for i, p := range c.pieces {
		last := i == len(c.pieces)-1
		if !last && c.pieces[i+1].local < local {
			continue
		}
		if p.ppm == stopped {
			if p.local >= local {
				return p.at
			}
			continue
		}
		d := local - p.local
		if d <= 0 {
			return p.at
		}
		rate := million + p.ppm
		t := p.at + (d*million+rate-1)/rate
		for p.local_(t) < local { // divisions round
			t++
		}
		for t > p.at && p.local_(t-1) >= local {
			t--
		}
		return t
	}
	return never
}

// setRate changes the rate from true time t on. A change before the last piece,
// which a freeze under way has begun, is left out.
func (c *bootClock) setRate(t, ppm int64) {
	if last := c.pieces[len(c.pieces)-1]; last.at < t {
		c.pieces = append(c.pieces, piece{t, last.local_(t), ppm})
	}
}

// freeze stops the clock from one true time to another and tells whether it
// did: it does not while another freeze is under way.
func (c *bootClock) freeze(from, to int64) bool {
	last := c.pieces[len(c.pieces)-1]
	if last.at > from || to <= from {
		return false
	}
	local := last.local_(from)
	c.pieces = append(c.pieces, piece{from, local, stopped}, piece{to, local, last.ppm})
	return true
}

// thaw returns t, or the end of the freeze that t lies in.
func (c *bootClock) thaw(t int64) int64 {
	for i := len(c.pieces) - 1; i >= 0; i-- {
		if c.pieces[i].at > t {
			continue
		}
		if c.pieces[i].ppm == stopped {
			return c.pieces[i+1].at
		}
		return t
	}
	return t
}

// frozenSince returns the local time of the last freeze that began at or before
// t, or math.MinInt64.
func (c *bootClock) frozenSince(t int64) int64 {
	for i := len(c.pieces) - 1; i >= 0; i-- {
		if c.pieces[i].ppm == stopped && c.pieces[i].at <= t {
			return c.pieces[i].local
		}
	}
	return math.MinInt64
}

// epoch0 is the time of day at which every run begins.
var epoch0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
