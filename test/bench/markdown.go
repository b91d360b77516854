package main

import (
	"fmt"
	"strings"
	"time"
)

const preface = `# Benchmarks

Written by ` + "`make bench`" + `; do not edit. A client on the same LAN asks for the floating address 1,000 times a
second by ARP. **Gap** is the longest time without an answer from the fault on, until the cluster is whole again.
**Doubles** counts the stretches of time in which two hosts acted as owner, captured on the cable of each host, so that
one that is cut off and goes on answering is seen too. Percentiles are by nearest rank: below 100 rounds the
99th is the longest. Everything was measured in one run on one machine, with all hosts as network namespaces of it.

`

// markdown is the page.
func (p *page) markdown() string {
	var b strings.Builder
	b.WriteString(preface)
	p.writeMachine(&b)
	p.writeRows(&b)
	p.writeRivals(&b)
	p.writeRest(&b)
	p.writeGate(&b)
	return b.String()
}

func (p *page) writeMachine(b *strings.Builder) {
	m := p.machine
	fmt.Fprintf(b, "- date: %s\n", p.began.UTC().Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(b, "- machine: %s, %d cores, %.0f GiB, kernel %s\n", m.model, m.cores, m.memoryGiB, m.kernel)
	fmt.Fprintf(b, "- program: %s\n", p.binary.version)
	fmt.Fprintf(b, "- command: `make bench N=%d`\n", p.options.n)
	fmt.Fprintf(b, "- the probe itself paused for at most %s in half of the rounds, %s in 99 of 100\n\n",
		millis(percentile(p.noise, 50)), millis(percentile(p.noise, 99)))
}

func (p *page) writeRows(b *strings.Builder) {
	for _, profile := range profiles {
		fmt.Fprintf(b, "## Failover, %s profile\n\n", profile)
		table(b, "scenario", "rounds", "p50", "p99", "max", "doubles", "goal (p99)", "goal")
		for _, s := range p.rows[profile] {
			goal, met := "-", "-"
			if s.goal > 0 {
				goal, met = millis(s.goal), "**missed**"
				if s.met() {
					met = "met"
				}
			}
			row(b, s.title, fmt.Sprint(s.rounds()), s.gap(50), s.gap(99), s.gap(100), fmt.Sprint(s.doubles), goal, met)
		}
		b.WriteString("\n")
		for _, s := range p.rows[profile] {
			for _, e := range s.errors {
				fmt.Fprintf(b, "Failed round of “%s”: %s\n\n", s.title, strings.ReplaceAll(e, "\n", "; "))
			}
		}
	}
}

func (p *page) writeRivals(b *strings.Builder) {
	b.WriteString("## Beside keepalived\n\n")
	if p.noRival != "" {
		fmt.Fprintf(b, "Not measured: %s.\n", p.noRival)
	}
	for _, r := range rivals {
		if len(p.rivals[r.profile]) == 0 {
			continue
		}
		fmt.Fprintf(b, "Two gateways, VRRP version 3, %s, nopreempt. Each fault is watched for %v: a gap or a time of two owners that\n"+
			"reaches the end of that did not end by itself. Where there are two owners, a short gap means only that the stale\n"+
			"one goes on answering.\n\n", r.name, r.window)
		table(b, "fault on the owner", "rounds", "p50", "p99", "max", "rounds with two owners", "longest time of two owners")
		for _, s := range p.rivals[r.profile] {
			longest := "-"
			if s.doubles > 0 {
				longest = fmt.Sprintf("%.0f ms", float64(s.longestDouble)/1e6)
			}
			row(b, s.title, fmt.Sprint(s.rounds()), s.gap(50), s.gap(99), s.gap(100), fmt.Sprint(s.doubleRounds), longest)
		}
		for _, s := range p.rivals[r.profile] {
			for _, e := range s.errors {
				fmt.Fprintf(b, "\nFailed round of “%s”: %s\n", s.title, strings.ReplaceAll(e, "\n", "; "))
			}
		}
		fmt.Fprintf(b, "\nHoldfast, %s profile, beside keepalived, %s, by the median gap:\n\n", r.profile, r.name)
		table(b, "scenario", "Holdfast", "keepalived", "Holdfast / keepalived")
		for _, s := range p.rows[r.profile] {
			if other := p.rival(r.profile, rivalOf[s.id]); other != nil && len(other.gaps) > 0 {
				row(b, s.title, s.gap(50), other.gap(50), ratio(s, other))
			}
		}
		b.WriteString("\n")
	}
}

func (p *page) rival(profile, id string) *series {
	for _, s := range p.rivals[profile] {
		if s.id == id {
			return s
		}
	}
	return nil
}

func ratio(ours, theirs *series) string {
	switch {
	case theirs.doubles > 0:
		return "none: it has two owners"
	case len(ours.gaps) == 0 || theirs.percentile(50) == 0:
		return "-"
	}
	return fmt.Sprintf("%.3f", float64(ours.percentile(50))/float64(theirs.percentile(50)))
}

func (p *page) writeRest(b *strings.Builder) {
	fmt.Fprintf(b, "## At rest\n\nProcessor (share of one core over %v) and resident memory of an idle cluster, default profile:\n\n", p.options.idle)
	table(b, "node", "process", "CPU", "memory")
	for _, u := range p.idle {
		row(b, u.node, u.process, fmt.Sprintf("%.2f %%", u.cpuPercent), fmt.Sprintf("%.1f MiB", float64(u.rssKiB)/1024))
	}
	b.WriteString("\nFrom the start of three nodes until the address is served and every member agrees:\n\n")
	table(b, "profile", "first start, with founding", "later starts, p50", "later starts, max")
	for _, profile := range profiles {
		if r := p.ready[profile]; r != nil {
			row(b, profile, seconds(r.founding), seconds(percentile(r.starts, 50)), seconds(percentile(r.starts, 100)))
		}
	}
	fmt.Fprintf(b, "\nThe program: %.1f MiB, %s.\n\n", float64(p.binary.size)/(1<<20), p.binary.file)
}

func (p *page) writeGate(b *strings.Builder) {
	b.WriteString("## Cost of the gate\n\n")
	if p.noGate != "" {
		fmt.Fprintf(b, "Not measured: %s.\n", p.noGate)
		return
	}
	b.WriteString("Time of the kernel program for one frame, beside an empty program, best of several runs:\n\n")
	table(b, "frame", "state", "gate", "empty", "difference")
	for _, g := range p.gate {
		row(b, g.frame, g.state, fmt.Sprintf("%.1f ns", g.nanos), fmt.Sprintf("%.1f ns", g.emptyRun), fmt.Sprintf("%.1f ns", g.nanos-g.emptyRun))
	}
}

func table(b *strings.Builder, heads ...string) {
	row(b, heads...)
	b.WriteString("|" + strings.Repeat("---|", len(heads)) + "\n")
}

func row(b *strings.Builder, cells ...string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// gap is a percentile for people; gaps of up to 2 ms are not listed one by one.
func (s *series) gap(p int) string {
	if len(s.gaps) == 0 {
		return "-"
	}
	return millis(s.percentile(p))
}

func millis(d time.Duration) string {
	switch {
	case d == 0:
		return "< 2 ms"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
