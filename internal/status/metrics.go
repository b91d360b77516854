package status

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapesMax bounds scrapes that run at the same time.
const scrapesMax = 4

// Metrics is the part of the metrics that is counted as it happens. The rest
// is computed from the report when it is scraped. Its methods may be called
// from any goroutine and do not block.
type Metrics struct {
	failovers *prometheus.CounterVec
	fsync     prometheus.Histogram
	commit    prometheus.Histogram
	build     prometheus.GaugeFunc
}

// NewMetrics makes the counters of one node, all causes beginning at zero.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		failovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_failovers_total",
			Help: "Moves of a VIP group that this node has seen committed, by cause.",
		}, []string{"cause"}),
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "holdfast_wal_fsync_seconds",
			Help:    "Time of one sync of the log to disk.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16), // 0.1 ms to 3.3 s
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "holdfast_commit_seconds",
			Help:    "Time from proposing a command here to applying it here.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		build: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "holdfast_build_info",
			Help:        "Always 1; the labels say what runs.",
			ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
		}, func() float64 { return 1 }),
	}
	for _, cause := range Causes() {
		m.failovers.WithLabelValues(string(cause))
	}
	return m
}

// ObserveFsync counts one sync of the log.
func (m *Metrics) ObserveFsync(took time.Duration) { m.fsync.Observe(took.Seconds()) }

// ObserveCommit counts one command, from proposed to applied.
func (m *Metrics) ObserveCommit(took time.Duration) { m.commit.Observe(took.Seconds()) }

// ObserveFailover counts one move of a group.
func (m *Metrics) ObserveFailover(cause Cause) { m.failovers.WithLabelValues(string(cause)).Inc() }

func (m *Metrics) handler(source Source) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m.failovers, m.fsync, m.commit, m.build, reportCollector{source},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapesMax,
		Timeout:             writeTimeout - time.Second,
	})
}

// reportCollector turns the report into metrics at each scrape.
type reportCollector struct{ source Source }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	descAge       = describe("reading_age_seconds", "Age of the reading that the other values come from.")
	descHeld      = describe("lease_held", "1 while this node has a valid lease of the group.", "group")
	descRemaining = describe("lease_remaining_seconds", "Shortest time that is left of a lease held here, 0 without one.")
	descEpoch     = describe("epoch", "Epoch of the group's assignment.", "group")
	descDropped   = describe("gate_dropped_total", "Packets that the closed gate dropped, by reason.", "reason")
	descRefused   = describe("refused_total", "What others sent that was not taken, by reason.", "reason")
	descStalls    = describe("loop_stalls_total", "How often the loop did not turn for more than two beats.")
	descGate      = describe("gate_attached", "1 while the kernel gate is attached wherever it must be.")
	descReachable = describe("member_reachable", "1 while beats of the member arrive.", "member")
	descMargin    = describe("safety_margin_seconds", "How much the timing leaves between the end of a lease and the end of the promise.")
	descQuorum    = describe("quorum_ok", "1 while a majority of the voters is reachable.")
	descTerm      = describe("term", "raft term.")
	descApplied   = describe("applied_index", "Highest log index applied here.")
	descCommit    = describe("commit_index", "Highest log index known to be committed.")
	descBytes     = describe("state_bytes", "Size of the replicated state.")
	descWALBytes  = describe("wal_bytes", "Size of the log on disk.")
	descKeys      = describe("state_keys", "Keys in all buckets.")
	descSnapshot  = describe("snapshot_index", "Log index of the newest snapshot here, 0 without one.")
	descAudit     = describe("audit_events_total", "Events in the audit trail since the founding.")
	descVerdict   = describe("wal_recovery", "1 for the verdict of the last recovery of the log.", "verdict")
	descFull      = describe("disk_full", "1 while writes are refused because the disk of the log is full.")
	descSlow      = describe("disk_slow", "1 while syncs of the log take longer than the limit.")
	descVoter     = describe("member_voter", "1 while the member is a voter, 0 while it is filled or out of the configuration.", "member")
)

// Describe lists nothing on purpose but the metrics that are always there;
// those with labels come and go with members and groups.
func (c reportCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAge, descHeld, descRemaining, descEpoch, descDropped, descRefused, descStalls, descGate,
		descReachable, descMargin, descQuorum, descTerm, descApplied, descCommit, descBytes, descWALBytes,
		descKeys, descSnapshot, descAudit, descVerdict, descFull, descSlow, descVoter} {
		out <- d
	}
}

// Collect leaves out of a stale reading everything but its age and the leases,
// which are then not held: an alert must not be calmed by an old value.
func (c reportCollector) Collect(out chan<- prometheus.Metric) {
	report, age := reading(c.source, time.Now())
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descAge, age.Seconds())
	remaining := int64(0)
	for _, g := range report.Groups {
		gauge(descHeld, flag(g.Lease.Held), g.Name)
		if g.Lease.Held && (remaining == 0 || g.Lease.RemainingMs < remaining) {
			remaining = g.Lease.RemainingMs
		}
	}
	gauge(descRemaining, float64(remaining)/1000)
	if report.Stale {
		return
	}
	for _, g := range report.Groups {
		gauge(descEpoch, float64(g.Epoch), g.Name)
	}
	for reason, n := range report.Gate.Dropped {
		out <- prometheus.MustNewConstMetric(descDropped, prometheus.CounterValue, float64(n), reason)
	}
	for reason, n := range report.Refused {
		out <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(n), reason)
	}
	out <- prometheus.MustNewConstMetric(descStalls, prometheus.CounterValue, float64(report.Stalls))
	for _, m := range report.Members {
		gauge(descReachable, flag(m.Reachable), m.Name)
		gauge(descVoter, flag(m.Voter), m.Name)
	}
	gauge(descGate, flag(report.Gate.Attached))
	gauge(descMargin, report.Timing.MarginMs/1000)
	gauge(descQuorum, flag(report.Quorum.OK))
	gauge(descTerm, float64(report.Term))
	gauge(descApplied, float64(report.State.Applied))
	gauge(descCommit, float64(report.State.Commit))
	gauge(descBytes, float64(report.State.Bytes))
	gauge(descWALBytes, float64(report.WAL.Bytes))
	gauge(descKeys, float64(report.State.Keys))
	gauge(descSnapshot, float64(report.State.Snapshot))
	out <- prometheus.MustNewConstMetric(descAudit, prometheus.CounterValue, float64(report.State.Audit))
	if report.WAL.Verdict != "" {
		gauge(descVerdict, 1, report.WAL.Verdict)
	}
	gauge(descFull, flag(report.WAL.Blocked != ""))
	gauge(descSlow, flag(report.WAL.Slow))
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
