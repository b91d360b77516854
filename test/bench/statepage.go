package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// The page has two parts that are measured by themselves. stateMark begins the
// second one; a run of one part keeps the other as it is.
const stateMark = "<!-- durable state: what follows is written by make bench-state -->\n\n"

// otherPart returns the part of the page at path that this run did not measure.
func otherPart(path string, state bool) (string, error) {
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the page: %w", err)
	}
	first, second, found := strings.Cut(string(raw), stateMark)
	switch {
	case !state:
		return first, nil
	case found:
		return second, nil
	}
	return "", nil
}

// join makes a page of its two parts, each of which may be empty.
func join(first, second string) string {
	switch {
	case second == "":
		return first
	case first == "":
		return stateMark + second
	}
	return strings.TrimRight(first, "\n") + "\n\n" + stateMark + second
}

const statePreface = `# Durable state

Written by ` + "`make bench-state`" + `, which ` + "`make bench`" + ` includes; do not edit. All that stands in one table was measured
in one run on one machine, the systems in turn, so read the ratios: the rates are those of this disk and of processors
that members and clients share. A percentile is that of all operations of all rounds or, of clusters, the median of the
rounds. Every put is of %d bytes, to a key of its own, and waits until it is acknowledged.

`

// goals of the state part.
const (
	goalSingle   = 1.1 // time of an append of one writer, by a bare file's
	goalGain     = 8.0 // rate of 64 writers, by that of one
	goalReplay   = 5.0 // s for 1 GiB
	goalP50      = 0.5 // of etcd's, 1 client
	goalRate     = 4.0 // of etcd's, 64 clients
	goalP99      = 0.5 // of etcd's, 64 clients
	goalSnapshot = 2.0 // p99 with snapshots, by that without
	goalMemory   = 3.0 // by the live data, beside memoryBase
	memoryBase   = 40 << 20
)

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "**missed**"
}

// markdown is the part as it stands in the page.
func (s *stateBench) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, statePreface, valueBytes)
	fmt.Fprintf(&b, "- date: %s, %s run of %.0f s\n", s.began.UTC().Format("2006-01-02 15:04 MST"), s.name, s.took.Seconds())
	fmt.Fprintf(&b, "- machine: %s, %d cores, %.0f GiB, kernel %s\n", s.machine.model, s.machine.cores, s.machine.memoryGiB, s.machine.kernel)
	fmt.Fprintf(&b, "- Holdfast: %s\n", orNone(s.version))
	fmt.Fprintf(&b, "- etcd: %s of Debian's package, its own timing; client and log: modules 3.7.3\n\n", orNone(s.etcd))
	for _, f := range s.failures {
		fmt.Fprintf(&b, "Not measured: %s\n\n", strings.ReplaceAll(strings.TrimSpace(f), "\n", "; "))
	}
	s.writeGoals(&b)
	s.writeWAL(&b)
	s.writeClusters(&b)
	s.writeSnapshots(&b)
	s.writeMachine(&b)
	s.writeMemory(&b)
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "not measured"
	}
	return s
}

// goal is one line of the table of goals.
type goal struct {
	what, want, got string
	met             bool
}

func (s *stateBench) goals() []goal {
	var list []goal
	add := func(what, want, got string, met bool) { list = append(list, goal{what, want, got, met}) }
	if h := s.walOf("Holdfast"); h != nil {
		add("wal: time of one writer's append, by that of a bare file", "at most 1.1", fmt.Sprintf("%.2f", h.SingleRatio), h.SingleRatio <= goalSingle)
		add("wal: rate of 64 writers, by that of one", "at least 8", fmt.Sprintf("%.1f", h.Gain), h.Gain >= goalGain)
	}
	for _, r := range s.replay {
		if strings.HasPrefix(r.Name, "Holdfast") {
			whole := r.Seconds * float64(1<<30) / float64(r.Bytes)
			add("wal: 1 GiB read and checked", "at most 5 s", fmt.Sprintf("%.1f s", whole), whole <= goalReplay)
		}
	}
	if one, many := s.ratios(1), s.ratios(64); one != nil && many != nil {
		add("cluster, 1 client: p50 by etcd's", "at most 0.5", fmt.Sprintf("%.2f", one.p50), one.p50 <= goalP50)
		add("cluster, 64 clients: puts/s by etcd's", "at least 4", fmt.Sprintf("%.2f", many.rate), many.rate >= goalRate)
		add("cluster, 64 clients: p99 by etcd's", "at most 0.5", fmt.Sprintf("%.2f", many.p99), many.p99 <= goalP99)
	}
	if len(s.pairs) > 0 {
		r := s.snapshotRatio()
		add("p99 of writes with snapshots, by that without", "at most 2", fmt.Sprintf("%.2f", r), r <= goalSnapshot)
	}
	if r := s.recovery; r != nil {
		whole := (r.OpenS + r.ApplyS) * float64(1<<30) / float64(r.Bytes)
		add("node: 1 GiB of log read, checked and applied", "at most 5 s", fmt.Sprintf("%.1f s", whole), whole <= goalReplay)
	}
	if m, ok := s.worstMemory(); ok {
		limit := goalMemory*float64(m.live) + memoryBase
		add(fmt.Sprintf("memory with %s of data", mib(m.live)), "at most "+mib(int64(limit)), mib(m.rss<<10), float64(m.rss<<10) <= limit)
	}
	return list
}

func (s *stateBench) writeGoals(b *strings.Builder) {
	b.WriteString("## Goals\n\n")
	table(b, "what", "goal", "measured", "goal")
	for _, g := range s.goals() {
		row(b, g.what, g.want, g.got, verdict(g.met))
	}
	b.WriteString("\n")
}

func (s *stateBench) walOf(prefix string) *walRow {
	for i := range s.wal {
		if strings.HasPrefix(s.wal[i].Name, prefix) {
			return &s.wal[i]
		}
	}
	return nil
}

func (s *stateBench) writeWAL(b *strings.Builder) {
	if len(s.wal) == 0 {
		return
	}
	fmt.Fprintf(b, `## Write-ahead log

Entries of %d bytes, each synced before it is acknowledged. The bare file is full of zeros before the first write, which
is fdatasync'ed and recorded nowhere: the least that a log can do. “By bare” compares the times of one writer within each
of the %d rounds of %v and takes the median. Of 64 writers each waits for its own entry; in front of logs that take one
caller at a time stands a goroutine that appends together what has come.

`, valueBytes, s.size.walRounds, s.size.walSlice)
	table(b, "log", "one writer: p50", "p99", "appends/s", "by bare", "64 writers: p50", "p99", "appends/s", "by one writer")
	for _, r := range s.wal {
		row(b, r.Name, micro(r.Single.P50), micro(r.Single.P99), rate(r.Single.Rate), fmt.Sprintf("%.2f", r.SingleRatio),
			micro(r.Many.P50), micro(r.Many.P99), rate(r.Many.Rate), fmt.Sprintf("%.1f", r.Gain))
	}
	if len(s.replay) > 0 {
		fmt.Fprintf(b, "\nA log of %s in entries of 1 KiB, read and checked from the first to the last with none of it in the page\n"+
			"cache, as at a start:\n\n", mib(s.replay[0].Bytes))
		table(b, "log", "time", "rate", "files", "memory needed")
		for _, r := range s.replay {
			row(b, r.Name, fmt.Sprintf("%.2f s", r.Seconds), fmt.Sprintf("%.0f MiB/s", float64(r.Bytes)/(1<<20)/r.Seconds),
				mib(r.OnDisk), fmt.Sprintf("%.0f MiB", r.PeakMiB))
		}
	}
	b.WriteString("\n")
}

// median of one figure over the rounds of a system with so many clients.
func (s *stateBench) median(system string, clients int, of func(loadRow) float64) float64 {
	c := s.cells[system][clients]
	if c == nil || len(c.rows) == 0 {
		return 0
	}
	var v []float64
	for _, r := range c.rows {
		v = append(v, of(r))
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func rateOf(r loadRow) float64 { return r.Rate }
func p50Of(r loadRow) float64  { return r.P50 }
func p99Of(r loadRow) float64  { return r.P99 }

// clusterRatios are Holdfast's figures divided by etcd's.
type clusterRatios struct{ rate, p50, p99 float64 }

func (s *stateBench) ratios(clients int) *clusterRatios {
	of := func(f func(loadRow) float64) float64 {
		return s.median("holdfast", clients, f) / s.median("etcd", clients, f)
	}
	if s.median("etcd", clients, rateOf) == 0 || s.median("holdfast", clients, rateOf) == 0 {
		return nil
	}
	return &clusterRatios{rate: of(rateOf), p50: of(p50Of), p99: of(p99Of)}
}

func (s *stateBench) writeClusters(b *strings.Builder) {
	if len(s.cells) == 0 {
		return
	}
	fmt.Fprintf(b, `## Cluster of three

Members in network namespaces, data on the same disk, a new cluster in each of %d rounds of %v for each number of
clients. Clients run on the leader's host and talk to the leader by each system's own Go client: Holdfast over its
control socket, etcd over up to 4 connections to the host's own address. CPU is the time of processors that one put
takes, of the three members together and of the clients.

`, s.size.rounds, s.size.length)
	table(b, "clients", "system", "puts/s", "p50", "p99", "CPU of members", "CPU of clients", "failed")
	for _, n := range clientCounts {
		for _, system := range []string{"etcd", "holdfast"} {
			c := s.cells[system][n]
			if c == nil || len(c.rows) == 0 {
				continue
			}
			failed := 0
			for _, r := range c.rows {
				failed += r.Failed
			}
			row(b, fmt.Sprint(n), system, rate(s.median(system, n, rateOf)), micro(s.median(system, n, p50Of)), micro(s.median(system, n, p99Of)),
				micro(s.median(system, n, func(r loadRow) float64 { return r.Server })),
				micro(s.median(system, n, func(r loadRow) float64 { return r.CPU })), fmt.Sprint(failed))
		}
	}
	b.WriteString("\nHoldfast's figure divided by etcd's:\n\n")
	table(b, "clients", "puts/s", "p50", "p99")
	for _, n := range clientCounts {
		if r := s.ratios(n); r != nil {
			row(b, fmt.Sprint(n), fmt.Sprintf("%.2f", r.rate), fmt.Sprintf("%.2f", r.p50), fmt.Sprintf("%.2f", r.p99))
		}
	}
	b.WriteString("\n")
}

// snapshotRatio is the median over the pairs.
func (s *stateBench) snapshotRatio() float64 {
	var v []float64
	for _, p := range s.pairs {
		v = append(v, p[1].P99/p[0].P99)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func (s *stateBench) writeSnapshots(b *strings.Builder) {
	if len(s.pairs) == 0 && len(s.catchUps) == 0 {
		return
	}
	fmt.Fprintf(b, "## Snapshots and followers\n\nThe cluster holds %d keys, %s, before the first line.\n\n", s.preload.Keys, mib(s.preload.Bytes))
	if len(s.pairs) > 0 {
		fmt.Fprintf(b, "64 clients for %v, without a snapshot and with one after every 16 MiB of log (at the leader %d in all):\n\n",
			s.size.pair, s.taken)
		table(b, "snapshots", "puts/s", "p50", "p99", "99.9 %", "longest", "longest time without any answer")
		for _, p := range s.pairs {
			for i, name := range []string{"none", "yes"} {
				r := p[i]
				row(b, name, rate(r.Rate), micro(r.P50), micro(r.P99), micro(r.P999), micro(r.Max), fmt.Sprintf("%.0f ms", r.Gap))
			}
		}
		b.WriteString("\n")
	}
	if len(s.catchUps) > 0 {
		b.WriteString("A member is stopped, misses writes, and starts again. The time is from its start until it has applied all that was\n" +
			"committed then; its own restart, up to its first answer, is in it:\n\n")
		table(b, "filled by", "missed", "time", "of it restart", "rate after that")
		for _, c := range s.catchUps {
			row(b, c.way, mib(c.bytes), fmt.Sprintf("%.2f s", c.seconds), fmt.Sprintf("%.2f s", c.started),
				fmt.Sprintf("%.0f MiB/s", float64(c.bytes)/(1<<20)/max(c.seconds-c.started, 0.001)))
		}
		b.WriteString("\n")
	}
}

func (s *stateBench) writeMachine(b *strings.Builder) {
	if s.state == nil && s.recovery == nil {
		return
	}
	b.WriteString("## State machine\n\nWithout a cluster around it, one goroutine:\n\n")
	table(b, "what", "measured")
	if r := s.state; r != nil {
		row(b, fmt.Sprintf("puts applied, up to %d keys", r.Keys), rate(r.Apply)+"/s")
		row(b, fmt.Sprintf("heap for %s of keys and values", mib(r.LiveBytes)),
			fmt.Sprintf("%s, %.2f of the data", mib(r.HeapBytes), float64(r.HeapBytes)/float64(r.LiveBytes)))
		row(b, "state held for a snapshot (writes wait)", micro(r.FreezeUs))
		row(b, fmt.Sprintf("snapshot of %s written, synced and read again, beside writes", mib(r.FileBytes)), fmt.Sprintf("%.2f s", r.WriteS))
		row(b, "longest entry of 64 puts meanwhile, and without", fmt.Sprintf("%.1f ms, %.1f ms", r.SlowestDuringMs, r.SlowestBeforeMs))
		row(b, "snapshot read and proved at a start", fmt.Sprintf("%.2f s", r.OpenS))
	}
	if r := s.recovery; r != nil {
		row(b, fmt.Sprintf("log of %s with %d puts read and checked", mib(r.Bytes), r.Requests), fmt.Sprintf("%.2f s", r.OpenS))
		row(b, "and applied", fmt.Sprintf("%.2f s", r.ApplyS))
		row(b, "memory needed for both", fmt.Sprintf("%.0f MiB", r.PeakMiB))
	}
	b.WriteString("\n")
}

func (s *stateBench) worstMemory() (memory, bool) {
	if len(s.memory) == 0 {
		return memory{}, false
	}
	return slices.MaxFunc(s.memory, func(a, b memory) int { return int(a.rss - b.rss) }), true
}

func (s *stateBench) writeMemory(b *strings.Builder) {
	if len(s.memory) == 0 {
		return
	}
	b.WriteString("## Memory\n\nResident, worker and guard together, after all of the writes above, and at most since the start:\n\n")
	table(b, "member", "keys and values", "resident", "by the data", "at most")
	for _, m := range s.memory {
		row(b, m.node, mib(m.live), mib(m.rss<<10), fmt.Sprintf("%.2f", float64(m.rss<<10)/float64(max(m.live, 1))), mib(m.peak<<10))
	}
	b.WriteString("\n")
}

func mib(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }

// micro is a time in microseconds for people.
func micro(us float64) string {
	switch d := time.Duration(us * 1e3); {
	case us == 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", us)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", us/1e3)
	}
	return fmt.Sprintf("%.0f ms", us/1e3)
}

// rate has a comma for the thousands.
func rate(perSecond float64) string {
	n := int64(perSecond + 0.5)
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", rate(float64(n/1000)), n%1000)
}
