package storage

import (
	"context"
	"time"
)

// maxPause bounds what a stalled disk makes of a pause.
const maxPause = 50 * time.Millisecond

// pacing is the clock of background work, and how it waits.
type pacing struct {
	now   func() time.Time
	sleep func(ctx context.Context, d time.Duration) error
}

// realTime waits for real.
var realTime = pacing{now: time.Now, sleep: sleep}

func (d *Data) setPacing(o Options) {
	d.pacing = realTime
	if o.Now != nil {
		d.pacing.now = o.Now
	}
	if o.Sleep != nil {
		d.pacing.sleep = o.Sleep
	}
	d.snaps.pacing = d.pacing
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pacer bounds a rate.
type pacer struct {
	ctx    context.Context
	pacing pacing
	rate   int64 // bytes a second, 0 for no bound
	began  time.Time
	bytes  int64
}

// pace waits until so many bytes may be read.
func (p *pacer) pace(bytes int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	p.bytes += int64(bytes)
	if p.rate <= 0 {
		return nil
	}
	due := time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second))
	if wait := due - p.pacing.now().Sub(p.began); wait > 0 {
		return p.pacing.sleep(p.ctx, wait)
	}
	return nil
}
