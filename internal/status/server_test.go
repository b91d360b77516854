package status

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// reading is a source that a test sets.
type sourceOf struct{ v atomic.Pointer[fixed] }

type fixed struct {
	report Report
	asOf   time.Time
}

func (s *sourceOf) set(r Report, asOf time.Time) { s.v.Store(&fixed{r, asOf}) }

func (s *sourceOf) get() (Report, time.Time) {
	f := s.v.Load()
	return f.report, f.asOf
}

// holder is a report of a node that holds its VIP and is well.
func holder() Report {
	return Report{
		Version: "1.2.3", Cluster: "site-a", Node: "gw1", Role: RoleHolder, Holder: "gw1", Leader: "gw1", Term: 3, Epoch: 12,
		Lease:    Lease{Held: true, RemainingMs: 60_000, LengthMs: 391},
		Groups:   []Group{{Name: "default", Holder: "gw1", Epoch: 12, State: "holding", Lease: Lease{Held: true, RemainingMs: 60_000, LengthMs: 391}}, {Name: "mail", Holder: "gw2", Epoch: 9}},
		Quorum:   Quorum{OK: true, Voters: 3, Reachable: 3, CaughtUp: true},
		Members:  []Member{{Name: "gw2", Role: "gateway", Reachable: true, LastBeatMs: 12, Match: 88, Healthy: true, Voter: true}, {Name: "w1", Role: "witness"}},
		VIPs:     []VIP{{Address: "10.77.0.100/24", Interface: "eth0", Group: "default", Present: true, Gate: "open"}},
		Gate:     Gate{Attached: true, Mode: "tcx", Dropped: map[string]uint64{"ip_in": 4, "arp_out": 0}},
		State:    State{Applied: 88, Commit: 88, Hash: "ab", Bytes: 17},
		WAL:      WAL{Segments: 1, Verdict: "clean", FsyncP99Ms: 0.6},
		Timing:   Timing{Profile: "default", MarginMs: 0.101},
		Identity: Identity{Founded: true},
		Failovers: []Failover{{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Group: "default", From: "gw2", To: "gw1",
			Cause: CauseLeaseExpired, TookMs: 531}},
	}
}

// serve runs a server with its own listener until the test ends.
func serve(t *testing.T, source Source, metrics *Metrics) string {
	t.Helper()
	s, err := Listen(Options{Listen: "127.0.0.1:0", Source: source, Metrics: metrics, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return "http://" + s.Addr().String()
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err = errorsFirst(err, answer.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body), answer.Header
}

func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Covers C7, S2: what each path answers in each state of the node.
func TestPaths(t *testing.T) {
	source := &sourceOf{}
	url := serve(t, source.get, nil)
	standby := func(change func(*Report)) Report {
		r := holder()
		r.Role, r.Holder, r.Lease, r.Groups = RoleStandby, "gw2", Lease{}, nil
		change(&r)
		return r
	}
	now := time.Now
	for _, c := range []struct {
		name    string
		report  Report
		asOf    time.Time
		want    string // healthz readyz holder status
		readyzs string // part of its text
	}{
		{"holder", holder(), now().Add(time.Hour), "200 200 200 200", "ready"},
		{"standby", standby(func(*Report) {}), now().Add(time.Hour), "200 200 503 200", "ready"},
		{"no quorum", standby(func(r *Report) { r.Quorum.OK, r.Quorum.Reachable = false, 1 }), now().Add(time.Hour),
			"200 503 503 200", "no quorum: 1 of 3 voters"},
		{"catching up", standby(func(r *Report) { r.Quorum.CaughtUp, r.State.Applied = false, 80 }), now().Add(time.Hour),
			"200 503 503 200", "applied 80 of 88"},
		{"abstain", standby(func(r *Report) { r.Role = RoleAbstain }), now().Add(time.Hour), "200 503 503 200", "role abstain"},
		{"not founded", Report{Node: "gw1", WaitingFor: []string{"gw2", "w1"}}, now().Add(time.Hour),
			"200 503 503 200", "not founded: waiting for gw2, w1"},
		{"stale holder", holder(), now().Add(-2 * time.Second), "503 503 503 503", "stale: the last reading is"},
		{"no reading", Report{}, time.Time{}, "503 503 503 503", "no reading yet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source.set(c.report, c.asOf)
			var got []string
			for _, path := range []string{"/healthz", "/readyz", "/holder", "/status"} {
				code, text, head := get(t, url+path)
				got = append(got, http.StatusText(code))
				if path == "/readyz" && !strings.Contains(text, c.readyzs) {
					t.Errorf("readyz says %q", text)
				}
				if head.Get("Cache-Control") != "no-store" {
					t.Errorf("%s may be cached", path)
				}
			}
			want := strings.NewReplacer("200", "OK", "503", "Service Unavailable").Replace(c.want)
			if strings.Join(got, " ") != want {
				t.Errorf("got %q want %q", got, want)
			}
		})
	}
}

func TestHolderOfOneGroup(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now().Add(time.Hour))
	url := serve(t, source.get, nil)
	for group, want := range map[string]int{"default": 200, "mail": 503, "none": 503, "": 200} {
		if code, _, _ := get(t, url+"/holder?group="+group); code != want {
			t.Errorf("group %q: %d", group, code)
		}
	}
}

// The names of CONTRACT are a promise to scripts.
func TestStatusJSONHasThePromisedNames(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now())
	url := serve(t, source.get, nil)
	_, text, head := get(t, url+"/status")
	if head.Get("Content-Type") != "application/json" {
		t.Errorf("content type %q", head.Get("Content-Type"))
	}
	var tree map[string]any
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	promised := map[string][]string{
		"":          {"as_of", "version", "cluster", "node", "role", "holder", "leader", "term", "epoch", "lease", "quorum", "members", "vips", "gate", "state", "wal", "failovers", "stale", "conditions", "waiting_for"},
		"lease":     {"held", "remaining_ms", "length_ms"},
		"quorum":    {"ok", "voters", "reachable"},
		"members":   {"name", "role", "reachable", "last_beat_ms", "match", "fenced", "maintenance", "healthy"},
		"vips":      {"address", "interface", "group", "present", "gate"},
		"gate":      {"attached", "mode", "dropped"},
		"state":     {"applied", "commit", "snapshot", "bytes", "hash"},
		"wal":       {"bytes", "segments", "verdict", "fsync_p99_ms"},
		"failovers": {"at", "group", "from", "to", "cause", "took_ms"},
	}
	for name, keys := range promised {
		table := tree
		if name != "" {
			switch v := tree[name].(type) {
			case map[string]any:
				table = v
			case []any:
				table, _ = v[0].(map[string]any)
			}
		}
		for _, key := range keys {
			if _, ok := table[key]; !ok {
				t.Errorf("%s.%s is missing", name, key)
			}
		}
	}
	if tree["stale"] != false {
		t.Errorf("stale is %v", tree["stale"])
	}
}

func TestEmptyReportHasListsNotNull(t *testing.T) {
	text, err := json.Marshal(Report{}.Normal())
	if err != nil || strings.Contains(string(text), "null") {
		t.Errorf("%s, %v", text, err)
	}
}

// A lease is served with what is left of it now, never with what was left when
// the reading was made.
func TestAged(t *testing.T) {
	r := holder()
	r.Lease.RemainingMs, r.Groups[0].Lease.RemainingMs = 300, 300
	for _, c := range []struct {
		age       time.Duration
		remaining int64
		held      bool
		role      Role
		stale     bool
	}{
		{0, 300, true, RoleHolder, false},
		{100*time.Millisecond + 1, 199, true, RoleHolder, false},
		{299 * time.Millisecond, 1, true, RoleHolder, false},
		{300 * time.Millisecond, 0, false, RoleStandby, false},
		{time.Second, 0, false, RoleStandby, false},
		{time.Second + 1, 0, false, RoleStandby, true},
	} {
		got := r.aged(c.age)
		want := Lease{Held: c.held, RemainingMs: c.remaining, LengthMs: 391}
		if got.Lease != want || got.Groups[0].Lease != want || got.Role != c.role || got.Stale != c.stale {
			t.Errorf("after %v: lease %+v, group %+v, role %s, stale %v", c.age, got.Lease, got.Groups[0].Lease, got.Role, got.Stale)
		}
	}
	if !r.Groups[0].Lease.Held || r.Groups[0].Lease.RemainingMs != 300 {
		t.Error("aging changed its argument")
	}
	long := holder() // a lease that outlives its reading is not served either
	if got := long.aged(2 * time.Second); got.Lease.Held || got.Groups[0].Lease.Held || got.Role != RoleStandby {
		t.Errorf("stale lease %+v", got.Lease)
	}
}

// The wall clock counts beside the monotonic one, which stands still while the
// host is suspended.
func TestReadingAfterSuspend(t *testing.T) {
	asOf := time.Now()
	source := func() (Report, time.Time) { return holder(), asOf }
	if report, age := reading(source, asOf.Round(0).Add(time.Minute)); !report.Stale || age != time.Minute {
		t.Errorf("stale %v, age %v", report.Stale, age)
	}
	if report, _ := reading(source, asOf.Add(time.Second)); report.Stale {
		t.Error("stale at exactly one second")
	}
}

func TestOnlyReads(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now().Add(time.Hour))
	url := serve(t, source.get, NewMetrics("1"))
	for _, path := range []string{"/", "/status", "/metrics", "/healthz"} {
		for _, verb := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
			request, err := http.NewRequest(verb, url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusMethodNotAllowed || answer.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %s", verb, path, answer.Status)
			}
		}
		if answer, err := http.Head(url + path); err != nil || answer.StatusCode != 200 {
			t.Errorf("HEAD %s: %v", path, err)
		}
	}
	if code, text, _ := get(t, url+"/"); code != 200 || !strings.Contains(text, "/holder") {
		t.Errorf("index: %d %q", code, text)
	}
	if code, _, _ := get(t, url+"/nothing"); code != http.StatusNotFound {
		t.Errorf("unknown path: %d", code)
	}
	if code, _, _ := get(t, serve(t, source.get, nil)+"/metrics"); code != http.StatusNotFound {
		t.Errorf("metrics that are off: %d", code)
	}
}

func TestLargeHeadersAreRefused(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now())
	url := serve(t, source.get, nil)
	request, err := http.NewRequest(http.MethodGet, url+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Large", strings.Repeat("a", 2*headerBytesMax))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %s", answer.Status)
	}
}

// Connections beyond the limit wait; those that say nothing are dropped, so
// that an idle stranger cannot keep probes out for long.
func TestConnectionsAreBounded(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now().Add(time.Hour))
	url := serve(t, source.get, nil)
	silent := make([]net.Conn, connectionsMax)
	for i := range silent {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		silent[i] = conn
	}
	began := time.Now()
	client := &http.Client{Timeout: 4 * readHeaderTimeout}
	answer, err := client.Get(url + "/holder")
	if err != nil {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
	_ = answer.Body.Close()
}

func TestCloseFreesThePort(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now())
	o := Options{Listen: "127.0.0.1:0", Source: source.get, Logger: slog.New(slog.DiscardHandler)}
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Listen = s.Addr().String()
	if _, err := Listen(o); err == nil {
		t.Fatal("the same port twice")
	}
	if err := s.Close(); err != nil { // never ran
		t.Fatal(err)
	}
	again, err := Listen(o)
	if err != nil {
		t.Fatalf("port not free: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMetrics(t *testing.T) {
	source := &sourceOf{}
	source.set(holder(), time.Now().Add(time.Hour))
	m := NewMetrics("1.2.3")
	m.ObserveFsync(300 * time.Microsecond)
	m.ObserveCommit(2 * time.Millisecond)
	m.ObserveFailover(CauseOperator)
	url := serve(t, source.get, m)
	code, text, _ := get(t, url+"/metrics")
	if code != 200 {
		t.Fatalf("%d: %s", code, text)
	}
	lines := strings.Split(text, "\n")
	for _, want := range []string{
		`holdfast_lease_held{group="default"} 1`,
		`holdfast_lease_held{group="mail"} 0`,
		`holdfast_lease_remaining_seconds 60`,
		`holdfast_failovers_total{cause="operator"} 1`,
		`holdfast_failovers_total{cause="lease_expired"} 0`,
		`holdfast_gate_dropped_total{reason="ip_in"} 4`,
		`holdfast_member_reachable{member="gw2"} 1`,
		`holdfast_member_reachable{member="w1"} 0`,
		`holdfast_wal_fsync_seconds_count 1`,
		`holdfast_commit_seconds_count 1`,
		`holdfast_safety_margin_seconds 0.000101`,
		`holdfast_state_bytes 17`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q", want)
		}
	}
	for _, part := range []string{`holdfast_build_info{go="go`, `version="1.2.3"} 1`, "process_cpu_seconds_total", "go_goroutines"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q", part)
		}
	}
	source.set(holder(), time.Now().Add(-time.Minute))
	_, text, _ = get(t, url+"/metrics")
	for _, want := range []string{`holdfast_lease_held{group="default"} 0`, "holdfast_lease_remaining_seconds 0", "holdfast_reading_age_seconds 6"} {
		if !strings.Contains(text, want) {
			t.Errorf("stale: no %q", want)
		}
	}
	if strings.Contains(text, "holdfast_member_reachable{") {
		t.Error("stale values are served")
	}
}
