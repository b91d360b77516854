package main

import (
	"slices"
	"time"
)

// figures are the times of operations that ran one after the other in each of
// some workers. Times are in microseconds, rates in operations per second.
type figures struct {
	Count int     `json:"count"`
	Rate  float64 `json:"rate"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
}

// summarize sorts took.
func summarize(took []time.Duration, elapsed time.Duration) figures {
	f := figures{Count: len(took)}
	if len(took) == 0 || elapsed <= 0 {
		return f
	}
	slices.Sort(took)
	f.Rate = float64(len(took)) / elapsed.Seconds()
	f.P50, f.P90, f.P99 = micros(quantile(took, 500)), micros(quantile(took, 900)), micros(quantile(took, 990))
	f.P999, f.Max = micros(quantile(took, 999)), micros(took[len(took)-1])
	return f
}

// quantile is by nearest rank, of sorted values, which are not empty.
func quantile(sorted []time.Duration, permille int) time.Duration {
	return sorted[max((len(sorted)*permille+999)/1000-1, 0)]
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// median of values, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
