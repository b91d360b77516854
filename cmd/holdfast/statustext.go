package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-ha/holdfast/internal/status"
)

// failoversShown is how many moves the table shows; --json has all.
const failoversShown = 5

// tone of a text: it becomes a colour on a terminal and nothing elsewhere.
type tone string

const (
	plain tone = ""
	good  tone = "\x1b[32m"
	bad   tone = "\x1b[31m"
	warn  tone = "\x1b[33m"
	head  tone = "\x1b[1m"
)

// cell is a text of a table with its tone.
type cell struct {
	text string
	tone tone
}

func p(format string, args ...any) cell { return cell{text: fmt.Sprintf(format, args...)} }

// judge tones a text by whether what it says is as it should be.
func judge(ok bool, yes, no string) cell {
	if ok {
		return cell{yes, good}
	}
	return cell{no, bad}
}

// page collects the lines of a report.
type page struct {
	out     strings.Builder
	colours bool
}

func (g *page) paint(c cell, width int) string {
	pad := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(c.text)))
	if !g.colours || c.tone == plain || c.text == "" {
		return c.text + pad
	}
	return string(c.tone) + c.text + "\x1b[0m" + pad
}

// line is a name and what there is to say of it.
func (g *page) line(name string, cells ...cell) {
	parts := make([]string, 0, len(cells))
	for _, c := range cells {
		if c.text != "" {
			parts = append(parts, g.paint(c, 0))
		}
	}
	fmt.Fprintf(&g.out, "%-9s %s\n", name, strings.Join(parts, "  "))
}

// table prints rows under a heading, each column as wide as its widest text.
func (g *page) table(heading []string, rows [][]cell) {
	if len(rows) == 0 {
		return
	}
	all := make([][]cell, 0, len(rows)+1)
	top := make([]cell, len(heading))
	for i, h := range heading {
		top[i] = cell{h, head}
	}
	all = append(append(all, top), rows...)
	widths := make([]int, len(heading))
	for _, row := range all {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	g.out.WriteByte('\n')
	for _, row := range all {
		var line strings.Builder
		for i, c := range row {
			width := widths[i] + 2
			if i == len(row)-1 {
				width = 0
			}
			line.WriteString(g.paint(c, width))
		}
		g.out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// statusText is the report for people.
func statusText(r status.Report, colours bool) string {
	g := &page{colours: colours}
	g.summary(r)
	g.conditions(r)
	g.members(r)
	g.vips(r)
	g.failovers(r)
	return g.out.String()
}

func (g *page) summary(r status.Report) {
	age := cell{}
	if r.Stale {
		age = cell{"STALE: reading of " + stamp(r.AsOf), bad}
	}
	g.line("cluster", p("%s", r.Cluster), p("holdfast %s", r.Version), age)
	g.line("node", cell{r.Node, head}, roleCell(r.Role))
	for _, group := range r.Groups {
		g.line("group", p("%s", group.Name), judge(group.Holder != "", "holder "+group.Holder, "no holder"),
			p("epoch %d", group.Epoch), p("%s", group.State), leaseCell(group.Lease))
	}
	leader := judge(r.Leader != "", r.Leader, "none")
	g.line("leader", leader, p("term %d", r.Term))
	quorum := judge(r.Quorum.OK, "ok", "LOST")
	g.line("quorum", quorum, p("%d of %d voters reachable", r.Quorum.Reachable, r.Quorum.Voters))
	profile := r.Timing.Profile
	if profile == "" {
		profile = "by hand"
	}
	g.line("timing", p("%s", profile), p("beat %v ms", r.Timing.BeatMs), p("promise %v ms", r.Timing.PromiseMs),
		p("lease %v ms", r.Timing.LeaseMs), p("margin %.3f ms", r.Timing.MarginMs))
	if r.Gate.Mode == status.GateNone {
		g.line("gate", p("none: a witness holds no address"))
	} else {
		g.line("gate", judge(r.Gate.Attached, "attached", "NOT ATTACHED"), p("%s", r.Gate.Mode), droppedCell(r.Gate.Dropped))
	}
	applied := p("applied %d of %d", r.State.Applied, r.State.Commit)
	if r.State.Applied < r.State.Commit {
		applied.tone = warn
	}
	verdict := judge(r.WAL.Verdict == "clean" || r.WAL.Verdict == "torn_tail", r.WAL.Verdict, r.WAL.Verdict)
	g.line("log", applied, p("%s", count(r.WAL.Segments, "segment", "segments")), p("%s", bytesText(r.WAL.Bytes)), verdict,
		p("fsync p99 %.1f ms", r.WAL.FsyncP99Ms))
}

func roleCell(role status.Role) cell {
	c := p("%s", role)
	switch role {
	case status.RoleHolder:
		c.tone = good
	case status.RoleAbstain, status.RoleFenced:
		c.tone = bad
	case status.RoleJoining, status.RoleMaintenance:
		c.tone = warn
	}
	return c
}

func leaseCell(l status.Lease) cell {
	if !l.Held {
		return cell{}
	}
	return cell{fmt.Sprintf("lease %d of %d ms left", l.RemainingMs, l.LengthMs), good}
}

func droppedCell(dropped map[string]uint64) cell {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(dropped)) {
		if n := dropped[reason]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", reason, n))
		}
	}
	if len(parts) == 0 {
		return p("nothing dropped")
	}
	return p("dropped: %s", strings.Join(parts, ", "))
}

// conditions come before the tables: they are why one looks.
func (g *page) conditions(r status.Report) {
	if len(r.WaitingFor) > 0 {
		g.line("waiting", cell{"for " + strings.Join(r.WaitingFor, ", "), warn})
	}
	for _, c := range r.Conditions {
		g.line("!", cell{c.Code + ":", warn}, p("%s", c.Message))
		if c.Hint != "" {
			g.line("", p("hint: %s", c.Hint))
		}
	}
}

func (g *page) members(r status.Report) {
	rows := make([][]cell, 0, len(r.Members))
	for _, m := range r.Members {
		name, beat, reach := p("%s", m.Name), p("%d ms ago", m.LastBeatMs), judge(m.Reachable, "yes", "NO")
		if m.LastBeatMs < 0 {
			beat = p("none yet")
		}
		if m.Self {
			name, beat, reach = cell{m.Name + " *", head}, p("-"), p("-")
		}
		rtt := p("-")
		if m.RTTMs > 0 {
			rtt = p("%.1f ms", m.RTTMs)
		}
		rows = append(rows, []cell{name, p("%s", m.Role), reach, beat, rtt, p("%d", m.Match), memberState(m)})
	}
	g.table([]string{"MEMBER", "ROLE", "REACHABLE", "LAST BEAT", "RTT", "MATCH", "STATE"}, rows)
}

func memberState(m status.Member) cell {
	var marks []string
	tone := warn
	if m.Fenced {
		marks, tone = append(marks, "fenced"), bad
	}
	if m.Maintenance {
		marks = append(marks, "maintenance")
	}
	if !m.Voter {
		marks = append(marks, "not a voter")
	}
	if !m.Healthy {
		marks, tone = append(marks, "unhealthy"), bad
	}
	if len(marks) == 0 {
		return cell{"healthy", good}
	}
	return cell{strings.Join(marks, ", "), tone}
}

func (g *page) vips(r status.Report) {
	rows := make([][]cell, 0, len(r.VIPs))
	for _, v := range r.VIPs {
		here := "absent"
		if v.Present {
			here = "present"
		}
		gate := p("%s", v.Gate)
		if v.Gate == "open" {
			gate.tone = good
		}
		rows = append(rows, []cell{p("%s", v.Address), p("%s", v.Interface), p("%s", v.Group), p("%s", here), gate})
	}
	g.table([]string{"VIP", "INTERFACE", "GROUP", "HERE", "GATE"}, rows)
}

func (g *page) failovers(r status.Report) {
	shown := r.Failovers[max(0, len(r.Failovers)-failoversShown):]
	rows := make([][]cell, 0, len(shown))
	for _, f := range slices.Backward(shown) {
		from := f.From
		if from == "" {
			from = "-"
		}
		rows = append(rows, []cell{p("%s", stamp(f.At)), p("%s", f.Group), p("%s", from), p("%s", f.To),
			p("%s", f.Cause), p("%d ms", f.TookMs)})
	}
	g.table([]string{"FAILOVER (UTC)", "GROUP", "FROM", "TO", "CAUSE", "TOOK"}, rows)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }

// count is a number with its word.
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 || value == float64(int64(value)) {
		return fmt.Sprintf("%.0f %s", value, units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
