package main

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/test/scenario"
)

// series is one scenario, or one fault of a rival, many times.
type series struct {
	id, title, row string
	goal           time.Duration // 0 = none
	gaps           []time.Duration
	doubles        int64
	doubleRounds   int
	longestDouble  time.Duration
	errors         []string
}

// take adds a round. One that failed has no gap: it is counted as failed.
func (s *series) take(r scenario.Result, err error) {
	s.count(r.Doubles, r.LongestDouble)
	if err != nil {
		s.errors = append(s.errors, err.Error())
		return
	}
	s.gaps = append(s.gaps, r.Gap)
}

func (s *series) count(doubles int64, longest time.Duration) {
	s.doubles += doubles
	if doubles > 0 {
		s.doubleRounds++
	}
	s.longestDouble = max(s.longestDouble, longest)
}

func (s *series) rounds() int { return len(s.gaps) + len(s.errors) }

// percentile of the gaps by nearest rank: with 20 rounds the 99th is the
// longest. 0 without any.
func (s *series) percentile(p int) time.Duration { return percentile(s.gaps, p) }

func percentile(values []time.Duration, p int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[max((len(sorted)*p+99)/100-1, 0)]
}

// met tells whether the goal is reached: by the 99th percentile, without a
// double and without a failed round.
func (s *series) met() bool {
	return s.doubles == 0 && len(s.errors) == 0 && s.percentile(99) <= s.goal
}

// doubles of the product, in all rows.
func (p *page) doubles() int64 {
	var sum int64
	for _, profile := range profiles {
		for _, s := range p.rows[profile] {
			sum += s.doubles
		}
	}
	return sum
}
