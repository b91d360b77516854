package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// errGone says that a cluster cannot be looked at any more: a round failed.
var errGone = errors.New("a round failed")

// summary adds rounds up.
type summary struct {
	options    options
	began      time.Time
	last       int // number of the last round
	rounds     []result
	shapes     map[string]int // clusters of each
	requests   map[string]int
	acked      int // writes of ledgers
	relayed    lab.RelayCount
	violations []string
}

func newSummary(o options) *summary {
	return &summary{options: o, began: time.Now(), last: o.first, shapes: map[string]int{}, requests: map[string]int{}}
}

func (s *summary) failed() int { return len(s.violations) }

// enter begins another cluster.
func (s *summary) enter(w *world) {
	s.shapes[w.shape.String()]++
	fmt.Printf("cluster of %v in %s\n", w.shape, w.lab.Dir)
}

// leave ends a cluster; err is what was wrong with it in the end, if anything.
// Its files are kept then.
func (s *summary) leave(w *world, err error) {
	if err != nil {
		if !errors.Is(err, errGone) {
			s.violations = append(s.violations, fmt.Sprintf("after round %d: %v", s.last, err))
			fmt.Printf("FAILED after round %d: %v\n", s.last, err)
		}
		w.lab.Keep()
		fmt.Printf("files are kept in %s; the ends of the last logs:\n%s", w.lab.Dir, w.lab.LastLogs(40))
	}
	s.acked += w.load.acked()
	s.relayed.Relayed += w.relayed.Relayed
	s.relayed.Lost += w.relayed.Lost
	s.relayed.Duplicated += w.relayed.Duplicated
	s.relayed.Reordered += w.relayed.Reordered
	w.close()
}

func (s *summary) add(r result) {
	s.last = r.n
	s.rounds = append(s.rounds, r)
	for what, n := range r.requests {
		s.requests[what] += n
	}
	if !r.failed() {
		return
	}
	text := fmt.Sprintf("round %d:", r.n)
	if d := r.doubles(); d != 0 {
		text += fmt.Sprintf(" %d doubles", d)
	}
	if r.err != nil {
		text += " " + r.err.Error()
	}
	s.violations = append(s.violations, text)
}

// again is the command that repeats the last round.
func (s *summary) again() string {
	text := fmt.Sprintf("go run ./test/chaos -seed %d -first %d -rounds 1 -age %d", s.options.seed, s.last, s.options.age)
	if s.options.profile != "" {
		text += " -profile " + s.options.profile
	}
	if s.options.gateways != 0 {
		text += fmt.Sprintf(" -gateways %d -witnesses %d", s.options.gateways, s.options.witnesses)
	}
	if s.options.only != "" {
		text += " -only " + s.options.only
	}
	return text
}

func (s *summary) doubles() (n int64) {
	for _, r := range s.rounds {
		n += r.doubles()
	}
	return n
}

// row is a line of the table of faults.
type row struct {
	name    string
	times   int
	notDone int
	// gaps of the rounds that had this one fault alone, at the holder.
	gaps []time.Duration
}

// table has a row for each kind that was caused, or tried.
func (s *summary) table() []row {
	rows := map[string]*row{}
	for _, r := range s.rounds {
		for _, f := range r.faults {
			x := rows[f.kind.name]
			if x == nil {
				x = &row{name: f.kind.name}
				rows[f.kind.name] = x
			}
			if f.err != nil {
				x.notDone++
				continue
			}
			x.times++
			if len(r.faults) == 1 && f.node == r.holder {
				x.gaps = append(x.gaps, r.gap)
			}
		}
	}
	var list []row
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, *rows[name])
	}
	return list
}

func (s *summary) gaps() (all []time.Duration) {
	for _, r := range s.rounds {
		all = append(all, r.gap)
	}
	return all
}

func (s *summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nseed %d: %d rounds in %v, %d failures, doubles %d\n",
		s.options.seed, len(s.rounds), time.Since(s.began).Round(time.Second), s.failed(), s.doubles())
	fmt.Fprintf(&b, "longest gap of a round, also where every member was broken: %s\n", percentiles(s.gaps()))
	fmt.Fprintf(&b, "clients: %d writes of ledgers acknowledged; requests: %s\n", s.acked, counts(s.requests))
	fmt.Fprintf(&b, "relays: %+v\n", s.relayed)
	total, notDone := 0, 0
	for _, x := range s.table() {
		fmt.Fprintf(&b, "  %-24s %4d   alone at the holder %3d: %s\n", x.name, x.times, len(x.gaps), percentiles(x.gaps))
		total, notDone = total+x.times, notDone+x.notDone
	}
	fmt.Fprintf(&b, "  %-24s %4d   (%d more could not be done at their moment)\n", "faults", total, notDone)
	for _, v := range s.violations {
		fmt.Fprintf(&b, "VIOLATION %s\n", v)
	}
	return b.String()
}

// markdown is the result as a section of a document.
func (s *summary) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Seed %d, %d rounds in %v: **%d doubles, %d violations**.\n\n", s.options.seed, len(s.rounds),
		time.Since(s.began).Round(time.Second), s.doubles(), s.failed())
	var shapes []string
	for _, name := range slices.Sorted(maps.Keys(s.shapes)) {
		shapes = append(shapes, fmt.Sprintf("%d x %s", s.shapes[name], name))
	}
	fmt.Fprintf(&b, "- Clusters, each built anew: %s.\n", strings.Join(shapes, "; "))
	fmt.Fprintf(&b, "- Requests of clients, by what they were told: %s.\n", counts(s.requests))
	fmt.Fprintf(&b, "- Writes of the ledgers that were acknowledged, and were on every member after every round: %d.\n", s.acked)
	fmt.Fprintf(&b, "- Frames that went through relays: %d, of which %d were lost, %d duplicated, %d out of order.\n",
		s.relayed.Relayed, s.relayed.Lost, s.relayed.Duplicated, s.relayed.Reordered)
	fmt.Fprintf(&b, "- Longest gap of a round, also where every member was broken: %s.\n\n", percentiles(s.gaps()))
	b.WriteString("| fault | times | not possible then | alone at the holder | gap p50 | p99 | max |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, x := range s.table() {
		slices.Sort(x.gaps)
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %s | %s | %s |\n", x.name, x.times, x.notDone, len(x.gaps),
			cellOf(x.gaps, 50), cellOf(x.gaps, 99), cellOf(x.gaps, 100))
	}
	if len(s.violations) > 0 {
		b.WriteString("\nViolations:\n\n")
	}
	for _, v := range s.violations {
		fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(v, "\n", " "))
	}
	return b.String()
}

func counts(of map[string]int) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", what, of[what]))
	}
	return strings.Join(parts, ", ")
}

func percentiles(gaps []time.Duration) string {
	if len(gaps) == 0 {
		return "-"
	}
	gaps = slices.Sorted(slices.Values(gaps))
	return fmt.Sprintf("p50 %v, p99 %v, max %v", percentile(gaps, 50), percentile(gaps, 99), percentile(gaps, 100))
}

func cellOf(sorted []time.Duration, p int) string {
	if len(sorted) == 0 {
		return "-"
	}
	return fmt.Sprintf("%d ms", percentile(sorted, p).Milliseconds())
}

// percentile of sorted values, by nearest rank.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max((len(sorted)*p+99)/100-1, 0)].Round(time.Millisecond)
}
