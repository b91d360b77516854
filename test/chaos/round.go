package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

const (
	healLimit   = 30 * time.Second // until the cluster is whole, once all is mended
	repairLimit = 60 * time.Second // the same, when a member has lost what it had stored
	serveLimit  = 5 * time.Second  // until the client hears the holder, once it is whole
	calm        = 150 * time.Millisecond
)

// result is what a round did.
type result struct {
	n        int
	holder   string // before the faults
	faults   []caused
	gap      time.Duration
	healed   time.Duration
	took     time.Duration
	requests map[string]int // by what came of them
	report   *lab.Report
	err      error // something that must not be, or was not measured
}

// caused is a plan, and what became of it.
type caused struct {
	plan
	node string
	err  error // it could not be done, such as killing what is dead
}

func (r result) doubles() int64 {
	if r.report == nil {
		return 0
	}
	return r.report.DoubleCount
}

func (r result) failed() bool { return r.err != nil || r.doubles() != 0 }

func (r result) String() string {
	var faults []string
	for _, f := range r.faults {
		text := fmt.Sprintf("%s %s %v+%v", f.kind.name, f.node, f.after.Round(time.Millisecond), f.hold.Round(time.Millisecond))
		if f.err != nil {
			text += " [not done]"
		}
		faults = append(faults, text)
	}
	requests := 0
	for _, n := range r.requests {
		requests += n
	}
	line := fmt.Sprintf("round %3d: gap %6.0f ms, whole after %4.1f s, %4.1f s in all, %4d requests, doubles %d: %s",
		r.n, float64(r.gap)/1e6, r.healed.Seconds(), r.took.Seconds(), requests, r.doubles(), strings.Join(faults, "; "))
	if r.failed() {
		line += "  FAILED"
	}
	return line
}

// details is what a person needs to look into a failed round.
func (r result) details() string {
	var b strings.Builder
	if r.err != nil {
		fmt.Fprintf(&b, "error: %v\n", r.err)
	}
	fmt.Fprintf(&b, "holder before: %s\n", r.holder)
	for _, f := range r.faults {
		fmt.Fprintf(&b, "fault: %v on %s, error %v\n", f.plan, f.node, f.err)
	}
	if r.report != nil {
		fmt.Fprintf(&b, "probe: %v\n", r.report)
		for _, d := range r.report.Doubles {
			fmt.Fprintf(&b, "double: %s and %s for %v from %.6f\n", d.A, d.B, d.Duration(), float64(d.Start)/1e9)
		}
		for _, c := range r.report.Changes {
			fmt.Fprintf(&b, "change: %.6f %s -> %s\n", float64(c.At)/1e9, c.From, c.To)
		}
		fmt.Fprintf(&b, "boot time now: %.6f = %s\n", float64(lab.Now())/1e9, time.Now().Format(time.RFC3339Nano))
	}
	return b.String()
}

// round causes the faults, mends them, waits until all is well and audits. The
// next round's probe begins before this one's ends, so that no moment is
// unwatched.
func (w *world) round(ctx context.Context, n int, plans []plan) result {
	r := result{n: n, holder: w.cluster.Holder()}
	began := time.Now()
	since := lab.Now()
	w.load.turnOver()
	clients := w.load.begin(n)
	time.Sleep(calm) // some requests before
	r.faults, r.err = w.act(ctx, plans)
	mended := time.Now()
	r.err = errors.Join(r.err, w.settle(ctx))
	r.healed = time.Since(mended)
	time.Sleep(calm)
	clients.stop()
	if r.err == nil {
		r.err = w.audit(ctx, clients)
	}
	if clients.h != nil {
		r.requests = clients.h.Told
	}
	next, err := w.watch()
	r.err = errors.Join(r.err, err)
	report, err := w.probe.Stop()
	r.err = errors.Join(r.err, err)
	w.probe = next
	if err == nil {
		r.report, r.gap = report, report.LongestSince(since).Duration()
		r.err = errors.Join(r.err, report.Valid())
	}
	r.took = time.Since(began)
	return r
}

// act causes and mends the faults at their times, one after the other.
func (w *world) act(ctx context.Context, plans []plan) ([]caused, error) {
	done := make([]caused, len(plans))
	mends := make([]func() error, len(plans))
	start := time.Now()
	var all error
	for left := 2 * len(plans); left > 0; left-- {
		i, at := nextStep(plans, mends)
		time.Sleep(time.Until(start.Add(at)))
		if mends[i] == nil {
			node := w.resolve(plans[i])
			mend, err := plans[i].kind.cause(ctx, w, node, plans[i])
			done[i], mends[i] = caused{plan: plans[i], node: node, err: err}, mend
			continue
		}
		all = errors.Join(all, mends[i]())
		done[i].hold = time.Since(start) - plans[i].after
		mends[i] = nothing
		plans[i].hold = time.Hour // mended: never next again
	}
	return done, all
}

// nextStep finds what is due next: to cause a fault or to mend one.
func nextStep(plans []plan, mends []func() error) (index int, at time.Duration) {
	at = 1 << 62
	for i, p := range plans {
		t := p.after
		if mends[i] != nil {
			t = p.after + p.hold
		}
		if t < at {
			index, at = i, t
		}
	}
	return index, at
}
