package main

import (
	"fmt"
	"strings"
	"time"
)

const head = `
A client on the same LAN asked for the floating address 1,000 times a second; "gap" is the longest time without an answer.
"Doubles" counts the times in which two hosts acted as owner, seen on their cables even where they were cut: it must be 0.

`

const format = "%-8s %-46s %10s %10s %8s  %s\n"

// table is all outcomes for people.
func table(all []outcome) string {
	var b strings.Builder
	b.WriteString(head)
	fmt.Fprintf(&b, format, "profile", "scenario", "gap", "goal (p99)", "doubles", "outcome")
	b.WriteString(strings.Repeat("-", 110) + "\n")
	for _, o := range all {
		goal := "-"
		if g := o.s.Goals.Of(o.profile); g > 0 {
			goal = millis(g)
		}
		gap, doubles := millis(o.r.Gap), fmt.Sprint(o.r.Doubles)
		if o.r.Report == nil {
			gap, doubles = "-", "unknown"
		}
		fmt.Fprintf(&b, format, o.profile, o.s.Title, gap, goal, doubles, o.verdict())
	}
	return b.String()
}

// verdict says in a few words how a scenario ended.
func (o outcome) verdict() string {
	switch {
	case o.err != nil:
		return "FAILED: " + o.err.Error()
	case o.r.Doubles != 0:
		return fmt.Sprintf("FAILED: two owners, for up to %v", o.r.LongestDouble)
	}
	text := "stays on " + o.r.Owner
	if o.r.Moved {
		text = o.r.Holder + " -> " + o.r.Owner
	}
	if goal := o.s.Goals.Of(o.profile); goal > 0 && o.r.Gap > goal {
		text += ", slower than the goal"
		if o.r.Noise > goal/2 {
			text += fmt.Sprintf(" (the client itself paused for %s: is this machine busy?)", millis(o.r.Noise))
		}
	}
	return text
}

// words is the outcome on the line of progress.
func (o outcome) words() string {
	if o.r.Report == nil {
		return o.verdict()
	}
	return fmt.Sprintf("gap %s, doubles %d, %s", millis(o.r.Gap), o.r.Doubles, o.verdict())
}

// millis writes a duration in milliseconds; under 2 ms an owner was never away.
func millis(d time.Duration) string {
	if d == 0 {
		return "< 2 ms"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
