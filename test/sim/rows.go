package sim

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// rowRun is one run of a row of the table of times: one fault of a cluster that
// is at rest, and the gap that it makes, on true time.
type rowRun struct {
	w    *world
	name string
	at   int64 // of the fault
	was  *host
}

// Rows of the table, with the faults that stand for them.
var Rows = []string{"power", "link", "kill", "hang", "both-hang", "both-die", "deaf", "mute", "switchover", "restart", "leader"}

func (r *rowRun) start() {
	w := r.w
	rnd := stream(w.seed, "row")
	w.at(int64(w.scaled(3*time.Second))+span(rnd, 0, w.scaled(2*time.Second)), r.wait)
}

// wait until the cluster is at rest.
func (r *rowRun) wait() {
	w := r.w
	if !w.atRest() {
		w.at(w.now+int64(20*time.Millisecond), r.wait)
		return
	}
	if r.name == "leader" && w.leader() == w.holder(0) {
		// The holder leads: move the address, which moves no leadership.
		w.switchover(stream(w.seed, "row switch"))
		w.at(w.now+int64(time.Second), r.wait)
		return
	}
	w.at(w.now+int64(w.timing.Promise), r.strike)
}

// strike makes the fault.
func (r *rowRun) strike() {
	w := r.w
	h := w.holder(0)
	if h == nil {
		r.wait()
		return
	}
	r.at, r.was = w.now, h
	w.check.gaps[0] = nil
	moves := w.check.moves[0]
	hold := w.scaled(6 * time.Second)
	f := Fault{ID: 1, At: time.Duration(w.now), Host: h.name, Hold: hold}
	switch r.name {
	case "power", "deaf", "mute", "switchover":
		f.Kind = r.name
	case "link":
		f.Kind = "carrier"
	case "kill":
		f.Kind = "worker-crash"
	case "hang":
		f.Kind = "pause-worker"
	case "both-hang":
		f.Kind = "pause-both"
	case "both-die":
		f.Kind = "both-crash"
	case "restart":
		f.Kind, f.Hold = "restart", 10*time.Millisecond
	case "leader":
		f.Kind, f.Host = "power", w.leader().name
	}
	w.apply(f)
	w.at(w.now+int64(hold), func() {
		r.measure(moves)
		w.done = true
	})
}

// measure takes the longest gap that the fault made.
func (r *rowRun) measure(moves int) {
	w := r.w
	longest := int64(0)
	for _, g := range w.check.gaps[0] {
		from := g.from
		if r.name == "link" && g.was == r.was {
			from = r.at // nobody reaches a holder without link
		}
		longest = max(longest, g.to-from)
	}
	if since := w.check.away[0]; since != 0 {
		longest = max(longest, w.now-since)
	}
	w.result.Gap = time.Duration(longest)
	if r.name == "leader" && w.check.moves[0] != moves {
		w.violate("I12", "the address moved with the leader, which did not hold it")
	}
}

// rowEvery is which seeds live through a row of the table instead of a plan.
const rowEvery = 8

// ownRow gives every eighth seed a row of the table, and tells whether it did.
func (o *Options) ownRow() bool {
	if o.Row != "" || o.Plan != nil || o.Mode != "" || o.Profile != "" || o.Members != 0 || o.Seed%rowEvery != rowEvery-1 {
		return false
	}
	n := int(o.Seed / rowEvery % uint64(2*len(Rows)))
	o.Row, o.Profile = Rows[n/2], []string{"default", "fast"}[n%2]
	return true
}

// judge checks the gap of one run. It may be longer than what 99 of 100 must
// keep: by as long as the simulator may hold up a turn, and a beat that is lost.
func (r *rowRun) judge() {
	w := r.w
	limit := limits[r.name][0]
	if w.opt.Profile == "fast" {
		limit = limits[r.name][1]
	}
	if most := limit + 4*w.timing.Beat; w.result.Gap > most {
		w.violate("I12", "row %s: gap of %v, at most %v", r.name, w.result.Gap, most)
	}
}

// limits of the rows: the p99 of the gap, for the profiles default and fast
// (docs/lease-safety.md names what they are made of).
var limits = map[string][2]time.Duration{
	"power":      {750 * time.Millisecond, 200 * time.Millisecond},
	"link":       {750 * time.Millisecond, 200 * time.Millisecond},
	"kill":       {100 * time.Millisecond, 50 * time.Millisecond},
	"hang":       {750 * time.Millisecond, 250 * time.Millisecond},
	"both-hang":  {800 * time.Millisecond, 250 * time.Millisecond},
	"both-die":   {800 * time.Millisecond, 250 * time.Millisecond},
	"deaf":       {800 * time.Millisecond, 250 * time.Millisecond},
	"mute":       {800 * time.Millisecond, 250 * time.Millisecond},
	"switchover": {20 * time.Millisecond, 20 * time.Millisecond},
	"restart":    {50 * time.Millisecond, 50 * time.Millisecond},
	"leader":     {10 * time.Millisecond, 10 * time.Millisecond},
}

// Rows measures all rows for the profiles default and fast, b.Seeds seeds each
// (200 when that is not set), and prints them as a table.
func (b *Batch) Rows(out io.Writer) error {
	if b.Seeds == 0 || b.Seeds == 1000 {
		b.Seeds = 200
	}
	fmt.Fprintln(out, "| scenario | profile | seeds | gap p50 | p99 | max | limit of p99 | doubles |\n|---|---|---|---|---|---|---|---|")
	var failed error
	for _, row := range Rows {
		for i, profile := range []string{"default", "fast"} {
			o := *b
			o.Options.Row, o.Options.Profile = row, profile
			var gaps []time.Duration
			err := o.each(func(r Result) bool {
				gaps = append(gaps, r.Gap)
				if r.Failure != nil {
					fmt.Fprint(out, r.Describe(o.Options))
					failed = errors.Join(failed, r.Failure)
				}
				return true
			})
			if err != nil {
				return err
			}
			slices.Sort(gaps)
			at := func(q float64) time.Duration { return gaps[int(q*float64(len(gaps)-1))].Round(100 * time.Microsecond) }
			limit := limits[row][i]
			fmt.Fprintf(out, "| %s | %s | %d | %v | %v | %v | %v | 0 |\n", row, profile, len(gaps), at(0.5), at(0.99), at(1), limit)
			if at(0.99) > limit {
				failed = errors.Join(failed, fmt.Errorf("row %s, profile %s: p99 of the gap is %v, limit %v", row, profile, at(0.99), limit))
			}
		}
	}
	return failed
}
