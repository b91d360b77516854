package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with testdata/name.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, text, want)
	}
}

// holdfast runs the command in this process.
func holdfast(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// daemon is a backend with prepared answers.
type daemon struct {
	control.Backend // what it does not do itself
	mu              sync.Mutex
	report          status.Report
	err             error
	index           uint64
	changes         []control.Change
	statuses        int
	onStatus        func(n int)
}

func (d *daemon) Status(context.Context) (status.Report, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.statuses++
	if d.onStatus != nil {
		d.onStatus(d.statuses)
	}
	return d.report, d.err
}

func (d *daemon) Failover(_ context.Context, r control.FailoverRequest) (control.FailoverResult, error) {
	to := r.To
	if to == "" {
		to = "gw2"
	}
	return control.FailoverResult{Group: "default", From: "gw1", Holder: to, GapMs: 1.84, Epoch: 17}, d.err
}

func (d *daemon) Maintenance(_ context.Context, r control.MaintenanceRequest) (control.NodeResult, error) {
	node := r.Node
	if node == "" {
		node = "gw1"
	}
	return control.NodeResult{Node: node, Index: d.index}, d.err
}

func (d *daemon) Fence(_ context.Context, r control.NodeRequest) (control.NodeResult, error) {
	return control.NodeResult{Node: r.Node, Index: d.index}, d.err
}

func (d *daemon) Unfence(_ context.Context, r control.NodeRequest) (control.NodeResult, error) {
	return control.NodeResult{Node: r.Node, Index: d.index}, d.err
}

func (d *daemon) Reload(context.Context) (control.ReloadResult, error) {
	return control.ReloadResult{Changes: d.changes}, d.err
}

// start serves d on a socket until the test ends.
func (d *daemon) start(t *testing.T) (socket string) {
	t.Helper()
	return d.startIn(t, t.TempDir())
}

func (d *daemon) startIn(t *testing.T, dir string) (socket string) {
	t.Helper()
	socket = filepath.Join(dir, config.SocketName)
	server, err := control.Listen(control.Options{Path: socket, Backend: d, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return socket
}

func sample() status.Report {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)
	lease := status.Lease{Held: true, RemainingMs: 312, LengthMs: 391}
	return status.Report{
		AsOf: at, Version: "1.2.3", Cluster: "site-a", Node: "gw1", Role: status.RoleHolder, Holder: "gw1", Leader: "gw1",
		Term: 3, Epoch: 12, Lease: lease,
		Groups: []status.Group{
			{Name: "default", Holder: "gw1", Epoch: 12, State: "holding", Lease: lease},
			{Name: "mail", Epoch: 9, State: "idle"},
		},
		Quorum: status.Quorum{OK: true, Voters: 3, Reachable: 2, CaughtUp: true},
		Conditions: []status.Condition{
			{Code: "member_unreachable", Message: "w1 has not been heard for 12 s", Hint: "systemctl status holdfast on w1"},
		},
		Members: []status.Member{
			{Name: "gw1", Role: "gateway", Self: true, Reachable: true, Match: 88, Healthy: true, Voter: true},
			{Name: "gw2", Role: "gateway", Reachable: true, LastBeatMs: 12, RTTMs: 0.34, Match: 88, Healthy: true, Voter: true, Maintenance: true},
			{Name: "w1", Role: "witness", LastBeatMs: -1, Voter: true, Fenced: true},
		},
		VIPs: []status.VIP{
			{Address: "10.77.0.100/24", Interface: "eth0", Group: "default", Present: true, Gate: "open"},
			{Address: "10.77.0.101/24", Interface: "eth0", Group: "mail", Gate: "closed"},
		},
		Gate:   status.Gate{Attached: true, Mode: "tcx", Dropped: map[string]uint64{"ip_in": 10, "arp_out": 3, "na_out": 0}},
		State:  status.State{Applied: 88, Commit: 88},
		WAL:    status.WAL{Bytes: 16 << 20, Segments: 1, Verdict: "clean", FsyncP99Ms: 0.6},
		Timing: status.Timing{Profile: "default", BeatMs: 50, PromiseMs: 500, LeaseMs: 391, MarginMs: 0.101},
		Failovers: []status.Failover{
			{At: at.Add(-time.Hour), Group: "default", To: "gw2", Cause: status.CauseBoot, TookMs: 20},
			{At: at.Add(-time.Minute), Group: "default", From: "gw2", To: "gw1", Cause: status.CauseLeaseExpired, TookMs: 531},
		},
	}
}

func TestStatusTable(t *testing.T) {
	socket := (&daemon{report: sample()}).start(t)
	code, out, errs := holdfast(t, "status", "--socket", socket)
	if code != 0 || errs != "" {
		t.Fatalf("%d %s", code, errs)
	}
	golden(t, "status.txt", out)
	golden(t, "status-colours.txt", statusText(sample(), true))
}

func TestStatusOfABadDay(t *testing.T) {
	r := status.Report{
		Version: "1.2.3", Cluster: "site-a", Node: "w1", Role: status.RoleAbstain, Stale: true,
		AsOf: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Quorum: status.Quorum{Voters: 3, Reachable: 1},
		WaitingFor: []string{"gw1", "gw2"}, Groups: []status.Group{{Name: "default"}},
		State: status.State{Applied: 7, Commit: 9}, WAL: status.WAL{Verdict: "corrupt"}, Gate: status.Gate{Mode: "clsact"},
	}
	golden(t, "status-bad.txt", statusText(r, false))
}

func TestStatusJSON(t *testing.T) {
	socket := (&daemon{report: sample()}).start(t)
	code, out, errs := holdfast(t, "status", "--json", "--socket", socket)
	var got status.Report
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || errs != "" {
		t.Fatalf("%d %v %s", code, err, errs)
	}
	if got.Lease != sample().Lease || len(got.Members) != 3 {
		t.Errorf("%+v", got)
	}
	if code, out, _ := holdfast(t, "status", "-q", "--socket", socket); code != 0 || out != "" {
		t.Errorf("quiet: %d %q", code, out)
	}
}

// Watching ends with the interrupt, and that is no failure.
func TestStatusWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := &daemon{report: sample(), onStatus: func(n int) {
		if n == 2 {
			cancel()
		}
	}}
	socket := d.start(t)
	var out, errs bytes.Buffer
	if code := Run(ctx, []string{"status", "--watch", "--json", "--socket", socket}, &out, &errs); code != 0 {
		t.Fatalf("%d %s", code, errs.String())
	}
	first, _, ok := strings.Cut(out.String(), "\n")
	var got status.Report
	if err := json.Unmarshal([]byte(first), &got); err != nil || !ok || got.Node != "gw1" {
		t.Errorf("%v: %s", err, first)
	}
	if code, _, _ := holdfast(t, "status", "--watch", "--socket", filepath.Join(t.TempDir(), "none")); code != exitUnreachable {
		t.Errorf("watching nothing: %d", code)
	}
}

// The socket is found through the configuration, also when that is broken.
func TestSocketOfTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	(&daemon{report: sample()}).startIn(t, dir)
	file := filepath.Join(t.TempDir(), "holdfast.toml")
	if err := os.WriteFile(file, []byte("nonsense = true\n[node]\nruntime_dir = \""+dir+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := holdfast(t, "-c", file, "status"); code != 0 || !strings.Contains(out, "site-a") {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

func TestCommands(t *testing.T) {
	d := &daemon{index: 5}
	socket := d.start(t)
	for _, c := range []struct {
		args string
		text string
		json string
	}{
		{"failover --to gw2", "group default moved from gw1 to gw2: gap 1.8 ms, epoch 17\n", `"gap_ms": 1.84`},
		{"failover", "group default moved from gw1 to gw2: gap 1.8 ms, epoch 17\n", `"holder": "gw2"`},
		{"maintenance on", "maintenance of gw1 is on\n", `"node": "gw1"`},
		{"maintenance off gw2", "maintenance of gw2 is off\n", `"node": "gw2"`},
		{"fence gw2", "gw2 is fenced\n", `"index": 5`},
		{"unfence gw2", "gw2 is not fenced\n", `"index": 5`},
		{"reload", "nothing changed\n", `"changes": []`},
	} {
		args := append(strings.Fields(c.args), "--socket", socket)
		if code, out, errs := holdfast(t, args...); code != 0 || out != c.text || errs != "" {
			t.Errorf("%s: %d %q %q", c.args, code, out, errs)
		}
		if code, out, _ := holdfast(t, append(args, "--json")...); code != 0 || !strings.Contains(out, c.json) || !json.Valid([]byte(out)) {
			t.Errorf("%s --json: %d %q", c.args, code, out)
		}
		if code, out, _ := holdfast(t, append(args, "-q")...); code != 0 || out != "" {
			t.Errorf("%s -q: %d %q", c.args, code, out)
		}
	}
	d.index = 0
	if _, out, _ := holdfast(t, "fence", "gw2", "--socket", socket); out != "gw2 is fenced (it was already)\n" {
		t.Errorf("again: %q", out)
	}
	d.changes = []control.Change{{Key: "log.level", Old: "info", New: "debug"}, {Key: "vip[a]", New: "x"}, {Key: "vip[b]", Old: "y"}}
	if _, out, _ := holdfast(t, "reload", "--socket", socket); out != "log.level: info -> debug\nvip[a]: added: x\nvip[b]: removed: y\n" {
		t.Errorf("reload: %q", out)
	}
}

// What the daemon refuses becomes an exit code and two lines.
func TestRefusals(t *testing.T) {
	d := &daemon{}
	socket := d.start(t)
	for code, want := range map[control.Code]int{
		control.NoQuorum: exitRefused, control.PreconditionFailed: exitRefused, control.NotFound: exitRefused,
		control.QuotaExceeded: exitRefused, control.DiskFull: exitRefused,
		control.Invalid: exitUsage, control.TooLarge: exitUsage,
		control.Forbidden: exitFailed, control.Timeout: exitFailed, control.Internal: exitFailed,
	} {
		d.err = &control.Error{Code: code, Message: "because of\nthat", Hint: "holdfast status"}
		got, out, errs := holdfast(t, "failover", "--socket", socket)
		if got != want || out != "" || errs != "holdfast: failover: because of that\nhint: holdfast status\n" {
			t.Errorf("%s: %d %q %q", code, got, out, errs)
		}
	}
}

func TestUnreachable(t *testing.T) {
	for _, args := range []string{"status", "failover", "maintenance on", "fence a", "unfence a", "reload"} {
		code, out, errs := holdfast(t, append(strings.Fields(args), "--socket", filepath.Join(t.TempDir(), "none"))...)
		if code != exitUnreachable || out != "" || !strings.Contains(errs, "\nhint: is it running?") || strings.Count(errs, "\n") != 2 {
			t.Errorf("%s: %d %q %q", args, code, out, errs)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range []string{"", "nothing", "fence", "maintenance", "maintenance maybe", "status --nope", "wal", "worker", "completion tcsh"} {
		code, out, errs := holdfast(t, strings.Fields(args)...)
		if code != exitUsage || out != "" || !strings.HasPrefix(errs, "holdfast: ") || !strings.Contains(errs, "\nhint: holdfast ") {
			t.Errorf("%q: %d %q %q", args, code, out, errs)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Setenv("COLUMNS", "100")
	code, out, errs := holdfast(t, "--help")
	if code != 0 || errs != "" {
		t.Fatalf("%d %s", code, errs)
	}
	golden(t, "help.txt", out)
	if strings.Contains(out, "\n  worker") {
		t.Error("the hidden command is shown")
	}
	for _, command := range []string{"run", "keygen", "config check", "status", "failover", "maintenance", "fence", "unfence", "wal inspect", "wal verify", "reload", "version", "completion"} {
		code, text, _ := holdfast(t, append(strings.Fields(command), "--help")...)
		if code != 0 || !strings.Contains(text, "Usage: holdfast "+command) || !strings.Contains(out, "  "+command) {
			t.Errorf("%s: %d %s", command, code, text)
		}
	}
}

func TestKeygen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.key")
	code, out, errs := holdfast(t, "keygen", "-o", file)
	if code != 0 || errs != "" {
		t.Fatalf("%d %s", code, errs)
	}
	if _, err := transport.ParsePublicKey(strings.TrimSpace(out)); err != nil {
		t.Errorf("%q: %v", out, err)
	}
	if _, err := transport.LoadKey(file); err != nil {
		t.Error(err)
	}
	if code, _, errs := holdfast(t, "keygen", "-o", file); code != exitRefused || !strings.Contains(errs, "hint: ") {
		t.Errorf("existing file: %d %q", code, errs)
	}
	if code, _, errs := holdfast(t, "keygen", "-o", filepath.Join(t.TempDir(), "none", "k")); code != exitFailed || !strings.Contains(errs, "hint: mkdir -p") {
		t.Errorf("no directory: %d %q", code, errs)
	}
	if code, out, _ := holdfast(t, "keygen", "--json", "-o", file+"2"); code != 0 || !strings.Contains(out, `"public_key"`) {
		t.Errorf("json: %d %q", code, out)
	}
}

const fullFile = "../../internal/config/testdata/full.toml"

func TestConfigCheck(t *testing.T) {
	code, out, errs := holdfast(t, "config", "check", fullFile)
	if code != 0 || errs != "" {
		t.Fatalf("%d %s", code, errs)
	}
	golden(t, "check.txt", out)
	if code, out, _ := holdfast(t, "-c", fullFile, "config", "check", "--json"); code != 0 || !strings.Contains(out, `"margin_ms"`) || !json.Valid([]byte(out)) {
		t.Errorf("json: %d %s", code, out)
	}
	file := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(file, []byte("cluster = 1\ncolor = 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs = holdfast(t, "config", "check", file)
	lines := strings.Split(strings.TrimSpace(errs), "\n")
	if code != exitUsage || out != "" || !strings.HasPrefix(lines[0], file+":1: cluster: a number") || lines[len(lines)-1] != "hint: correct the file, then: holdfast config check "+file {
		t.Errorf("%d %q\n%s", code, out, errs)
	}
	code, out, _ = holdfast(t, "config", "check", "--json", file)
	var got checked
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitUsage || got.Valid || len(got.Problems) != len(lines)-1 {
		t.Errorf("%d %v %s", code, err, out)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if code, _, errs := holdfast(t, "config", "check", path); code != exitUsage || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: %d %s", path, code, errs)
		}
	}
}

// run and worker read the configuration before anything else.
func TestRunRefusesABadConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.toml")
	for _, args := range []string{"run", "worker --incarnation 1"} {
		if code, _, errs := holdfast(t, append(strings.Fields(args), "-c", file)...); code != exitUsage || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: %d %s", args, code, errs)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, out, _ := holdfast(t, "version"); code != 0 || !strings.HasPrefix(out, "holdfast ") || !strings.Contains(out, "go1.") {
		t.Errorf("%d %q", code, out)
	}
	if code, out, _ := holdfast(t, "version", "--json"); code != 0 || !strings.Contains(out, `"platform"`) {
		t.Errorf("%d %q", code, out)
	}
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete -C '/", "zsh": "bashcompinit", "fish": "complete -f -c holdfast"} {
		if code, out, _ := holdfast(t, "completion", shell); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: %d %q", shell, code, out)
		}
	}
	for line, want := range map[string]string{"holdfast fe": "fence\n", "holdfast maintenance o": "on", "holdfast wal v": "verify\n"} {
		t.Setenv("COMP_LINE", line)
		if code, out, errs := holdfast(t); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%q: %d %q %q", line, code, out, errs)
		}
	}
}

// writeLog makes a log with three records.
func writeLog(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "wal")
	log, err := wal.Create(wal.Options{FS: vfs.OS, Dir: dir, Cluster: [16]byte{1}, Node: 7, SegmentBytes: 1 << 20,
		MaxPayload: 1 << 16, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		done := make(chan error, 1)
		log.Append([]wal.Record{{Type: 1, Index: uint64(i + 1), Term: 1, Payload: bytes.Repeat([]byte("x"), 5000)}}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWAL(t *testing.T) {
	dir := writeLog(t)
	if code, out, errs := holdfast(t, "wal", "verify", dir); code != 0 || !strings.Contains(out, "clean") || !strings.Contains(out, "3 records") {
		t.Errorf("verify: %d %q %q", code, out, errs)
	}
	code, out, _ := holdfast(t, "wal", "inspect", dir)
	if code != 0 || strings.Count(out, "type 1 index") != 3 || !strings.Contains(out, "last index 3") {
		t.Errorf("inspect: %d %s", code, out)
	}
	if code, out, _ := holdfast(t, "wal", "inspect", "--json", dir); code != 0 || !json.Valid([]byte(strings.SplitN(out, "\n", 2)[0])) {
		t.Errorf("inspect --json: %d %s", code, out)
	}
	if code, _, errs := holdfast(t, "wal", "verify", filepath.Join(dir, "none")); code != exitUsage {
		t.Errorf("absent: %d %s", code, errs)
	}
	damage(t, dir)
	for _, verb := range []string{"verify", "inspect"} {
		code, out, errs := holdfast(t, "wal", verb, dir)
		if code != exitIntegrity || !strings.Contains(errs, "hint: keep the directory") || !strings.Contains(out, "corrupt") {
			t.Errorf("%s of a damaged log: %d %q %q", verb, code, out, errs)
		}
	}
}

// damage flips a bit in the payload of the first record.
func damage(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(text, bytes.Repeat([]byte("x"), 100)); at >= 0 {
			text[at+50] ^= 1
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no payload found")
}

func TestClassifyPlainErrors(t *testing.T) {
	var out bytes.Buffer
	if code := report(&out, errors.New("odd")); code != exitFailed || out.String() != "holdfast: odd\n" {
		t.Errorf("%d %q", code, out.String())
	}
	if report(&out, nil) != exitDone {
		t.Error("nil is not done")
	}
}
