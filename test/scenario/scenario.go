package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Goals of a row: the 99th percentile of the gap in each profile. 0 means that
// the table sets none.
type Goals struct{ Default, Fast time.Duration }

// Of returns the goal of a profile, 0 when there is none.
func (g Goals) Of(profile string) time.Duration {
	switch profile {
	case "default":
		return g.Default
	case "fast":
		return g.Fast
	}
	return 0
}

// expectation says what a fault has to do to the floating address.
type expectation int

const (
	moves    expectation = iota // another gateway takes over
	stays                       // the holder keeps it
	mayMove                     // either, whichever is quicker
	returned                    // planned: moves, and the command waits for it
)

// where says how the raft leader has to lie to the holder before the fault.
type where int

const (
	anywhere where = iota
	together       // leader and holder are one, where the leader is a gateway
	apart          // leader and holder are two
)

// Scenario is one way to lose the floating address, or not to.
type Scenario struct {
	ID    string
	Title string
	// Row is the row of the table of times that the scenario belongs to.
	Row   string
	Goals Goals
	// Wide bounds the gap on a machine that is shared with others.
	Wide time.Duration

	expect expectation
	lead   where
	// linger is how long the fault lasts after the address is served again.
	linger time.Duration
	strike func(ctx context.Context, c *lab.Cluster, at Position) (*lab.Fault, error)
}

// Position is who did what before the fault.
type Position struct {
	Holder string
	// Spare is the other gateway.
	Spare  string
	Leader string
}

// Env is where scenarios run: a cluster with two gateways, started.
type Env struct{ Cluster *lab.Cluster }

// Result is what a scenario did, measured from outside.
type Result struct {
	Position
	// Gap is the longest time without an answer from the fault on, until the
	// cluster was whole again.
	Gap time.Duration
	// Doubles counts the stretches of time in which two hosts acted as owner,
	// from before the fault to the end; LongestDouble is the longest.
	Doubles       int64
	LongestDouble time.Duration
	// Moved tells whether another gateway holds at the end, Owner which.
	Moved bool
	Owner string
	// Healed is how long it took from the undo until the cluster was whole.
	Healed time.Duration
	// Noise is the longest pause of the probe's own questions: a gap that is
	// not longer says nothing about the product.
	Noise  time.Duration
	Report *lab.Report
}

// Limits of the steps of a run.
const (
	calm       = 300 * time.Millisecond // of undisturbed answers before a fault
	aftermath  = 300 * time.Millisecond // of watching after the last step
	serveLimit = 30 * time.Second       // until the address is served again
	healLimit  = 30 * time.Second       // until a cluster is whole again
)

// Run brings the cluster into the position that the scenario needs, breaks it,
// waits until the address is served, mends it and waits until it is whole. An
// error means that this did not come about, or that the address moved where it
// may not. Doubles and long gaps are no errors here: they stand in the result.
func (s Scenario) Run(ctx context.Context, env Env) (Result, error) {
	at, err := env.arrange(ctx, s.lead)
	if err != nil {
		return Result{}, fmt.Errorf("before the fault: %w", err)
	}
	r := Result{Position: at}
	p, err := env.Cluster.Lab().StartProbe(lab.ProbeOptions{GapOver: 2 * time.Millisecond})
	if err != nil {
		return r, err
	}
	since, err := s.measure(ctx, env, p, &r)
	report, stopErr := p.Stop()
	if stopErr != nil {
		return r, errors.Join(err, stopErr)
	}
	r.take(report, since)
	if err != nil {
		return r, err
	}
	r.Moved = r.Owner != at.Holder || report.ChangeCount > 0
	switch {
	case report.Valid() != nil:
		return r, report.Valid()
	case s.expect == stays && r.Moved:
		return r, fmt.Errorf("the address moved from %s to %s, and must not", at.Holder, r.Owner)
	case (s.expect == moves || s.expect == returned) && !r.Moved:
		return r, fmt.Errorf("the address did not move from %s", at.Holder)
	}
	return r, nil
}

// measure does what happens while the probe runs; since is the boot time of
// the fault.
func (s Scenario) measure(ctx context.Context, env Env, p *lab.Probe, r *Result) (since int64, err error) {
	c := env.Cluster
	served, cancel := context.WithTimeout(ctx, serveLimit)
	defer cancel()
	if _, err := p.WaitOwner(served, r.Holder); err != nil {
		return lab.Now(), err
	}
	if err := sleep(ctx, calm); err != nil {
		return lab.Now(), err
	}
	since = lab.Now()
	fault, err := s.strike(ctx, c, r.Position)
	if err != nil {
		return since, fmt.Errorf("cause the fault: %w", err)
	}
	since = fault.At
	err = s.waitServed(ctx, c, p, r.Position)
	if err == nil {
		err = sleep(ctx, s.linger)
	}
	if err := errors.Join(err, fault.Undo()); err != nil {
		return since, err
	}
	mended := time.Now()
	if err := env.WaitWhole(ctx); err != nil {
		return since, fmt.Errorf("after the fault was undone: %w", err)
	}
	r.Healed = time.Since(mended)
	if err := sleep(ctx, aftermath); err != nil {
		return since, err
	}
	r.Owner = p.Owner()
	if h := c.Holder(); h != r.Owner {
		return since, fmt.Errorf("status names %q as holder, the client's answers come from %q", h, r.Owner)
	}
	return since, nil
}

// waitServed waits until the address is served as the scenario expects.
func (s Scenario) waitServed(ctx context.Context, c *lab.Cluster, p *lab.Probe, at Position) error {
	ctx, cancel := context.WithTimeout(ctx, serveLimit)
	defer cancel()
	var err error
	switch s.expect {
	case moves, returned:
		_, err = p.WaitOwner(ctx, at.Spare)
	case stays:
		_, err = p.WaitOwner(ctx, at.Holder)
	case mayMove:
		var holder string
		if holder, err = c.WaitHolder(ctx); err == nil {
			_, err = p.WaitOwner(ctx, holder)
		}
	}
	if err != nil {
		return fmt.Errorf("the address is not served again: %w", err)
	}
	return nil
}

func (r *Result) take(report *lab.Report, since int64) {
	r.Report = report
	r.Gap = report.LongestSince(since).Duration()
	r.Noise = report.LongestPause.Duration()
	r.Doubles = report.DoubleCount
	for _, d := range report.Doubles {
		r.LongestDouble = max(r.LongestDouble, d.Duration())
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
