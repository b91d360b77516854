package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// summary adds rounds up.
type summary struct {
	seed     uint64
	last     int // number of the last round
	rounds   int
	failures int
	doubles  int64
	notDone  int
	kinds    map[string]int
	gaps     []time.Duration
	began    time.Time
}

func newSummary(seed uint64) *summary {
	return &summary{seed: seed, kinds: map[string]int{}, began: time.Now()}
}

func (s *summary) add(r result) {
	s.rounds++
	s.last = r.n
	s.doubles += r.doubles()
	s.gaps = append(s.gaps, r.gap)
	if r.failed() {
		s.failures++
	}
	for _, f := range r.faults {
		if f.err != nil {
			s.notDone++
			continue
		}
		s.kinds[f.kind.name]++
	}
}

func (s *summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nseed %d: %d rounds in %v, %d failed, doubles %d\n",
		s.seed, s.rounds, time.Since(s.began).Round(time.Second), s.failures, s.doubles)
	if len(s.gaps) > 0 {
		slices.Sort(s.gaps)
		fmt.Fprintf(&b, "longest gap of a round, also where every member was broken: p50 %v, p99 %v, max %v\n",
			percentile(s.gaps, 50), percentile(s.gaps, 99), percentile(s.gaps, 100))
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(s.kinds)) {
		fmt.Fprintf(&b, "  %-24s %4d\n", name, s.kinds[name])
		total += s.kinds[name]
	}
	fmt.Fprintf(&b, "  %-24s %4d   (%d more could not be done at their moment)\n", "faults", total, s.notDone)
	return b.String()
}

// percentile of sorted values, by nearest rank.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max((len(sorted)*p+99)/100-1, 0)].Round(time.Millisecond)
}
