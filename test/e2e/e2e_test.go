package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

const (
	// settle is how long anything that is waited for may take.
	settle = 30 * time.Second
	// moved bounds the gap of an unplanned move: a little over half a second
	// where the machine is free, never many seconds.
	moved = 6 * time.Second
	// undisturbed bounds the gap where nothing may happen at all; that nothing
	// did is told exactly by the epoch.
	undisturbed = 1500 * time.Millisecond
	// lease is L of the default profile.
	lease = 391 * time.Millisecond
	// promise is P of the default profile.
	promise = 500 * time.Millisecond
)

// world is a lab with its cluster.
type world struct {
	*lab.Cluster
	lab  *lab.Lab
	load *kvload.Ledger // that is written beside the test, nil for none
}

// prepare builds a lab and installs a cluster, which is not started.
func prepare(t *testing.T, lo lab.Options, co lab.ClusterOptions) *world {
	t.Helper()
	lab.NeedRoot(t)
	if lo.Clients == 0 {
		lo.Clients = 1
	}
	l, err := lab.New(lo)
	if err != nil {
		t.Fatalf("build lab: %v", err)
	}
	l.Attach(t)
	c, err := l.NewCluster(co)
	if err != nil {
		t.Fatalf("install cluster: %v", err)
	}
	return &world{Cluster: c, lab: l}
}

// launch starts a cluster and waits until it is ready.
func launch(t *testing.T, lo lab.Options, co lab.ClusterOptions) *world {
	t.Helper()
	w := prepare(t, lo, co)
	w.start(t)
	w.ready(t)
	return w
}

// pair is the usual cluster: two gateways and a witness.
var pair = lab.Options{Gateways: 2, Witnesses: 1}

// within returns a context that ends with the test or after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// broken passes a fault on and ends the test when it could not be made.
func broken(t *testing.T) func(*lab.Fault, error) *lab.Fault {
	return func(f *lab.Fault, err error) *lab.Fault {
		t.Helper()
		check(t, err)
		return f
	}
}

func (w *world) start(t *testing.T, nodes ...string) {
	t.Helper()
	check(t, w.Start(nodes...))
}

func (w *world) stop(t *testing.T, nodes ...string) {
	t.Helper()
	check(t, w.Stop(nodes...))
}

func (w *world) ready(t *testing.T) {
	t.Helper()
	check(t, w.WaitReady(within(t, settle)))
}

// mend undoes faults and waits until the cluster is whole again.
func (w *world) mend(t *testing.T, faults ...*lab.Fault) {
	t.Helper()
	for _, f := range faults {
		check(t, f.Undo())
	}
	w.ready(t)
}

// holder waits for a holder, one of those named when any is.
func (w *world) holder(t *testing.T, nodes ...string) string {
	t.Helper()
	h, err := w.WaitHolder(within(t, settle), nodes...)
	check(t, err)
	return h
}

// others are all members but those named.
func (w *world) others(nodes ...string) []string {
	return slices.DeleteFunc(w.Names(), func(n string) bool { return slices.Contains(nodes, n) })
}

// other is the first gateway that is none of those named.
func (w *world) other(nodes ...string) string {
	for _, n := range w.others(nodes...) {
		if strings.HasPrefix(n, "gw") {
			return n
		}
	}
	return ""
}

// eventually waits until cond returns nil, and fails with its last error.
func eventually(t *testing.T, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(settle)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %v", settle, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// always looks at a condition for d and fails when it ever returns an error.
func always(t *testing.T, d time.Duration, cond func() error) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := cond(); err != nil {
			t.Fatal(err)
		}
	}
}

// report is a member's status with the fields beside those that lab knows.
type report struct {
	*lab.Status
	Stale      bool     `json:"stale"`
	WaitingFor []string `json:"waiting_for"`
	Groups     []struct {
		Name, State string
	} `json:"groups"`
	Conditions []struct {
		Code, Message, Hint string
	} `json:"conditions"`
	Identity struct {
		Founded   bool   `json:"founded"`
		ClusterID string `json:"cluster_id"`
		RaftID    string `json:"raft_id"`
	} `json:"identity"`
}

func (w *world) status(node string) (*report, error) {
	s, err := w.StatusOf(node)
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(s.Raw, r); err != nil {
		return nil, fmt.Errorf("parse status of %s: %w", node, err)
	}
	r.Status = s
	return r, nil
}

// seen waits until the status of a node is as cond wants it.
func (w *world) seen(t *testing.T, node string, cond func(*report) error) {
	t.Helper()
	eventually(t, func() error {
		r, err := w.status(node)
		if err != nil {
			return err
		}
		if err := cond(r); err != nil {
			return fmt.Errorf("%s says: %w (role %q, holder %q, leader %q, quorum %+v, conditions %v)",
				node, err, r.Role, r.Holder, r.Leader, r.Quorum, r.codes())
		}
		return nil
	})
}

func (r *report) codes() []string {
	var codes []string
	for _, c := range r.Conditions {
		codes = append(codes, c.Code)
	}
	return codes
}

// has tells whether a condition is there, with words in its message.
func (r *report) has(code string, words ...string) error {
	for _, c := range r.Conditions {
		if c.Code == code && !slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(c.Message, s) }) {
			return nil
		}
	}
	return fmt.Errorf("no condition %s with %q in %+v", code, words, r.Conditions)
}

// member is what a status says of another member.
func (r *report) fencedMember(name string) bool {
	for _, m := range r.Members {
		if m.Name == name {
			return m.Fenced
		}
	}
	return false
}

func (r *report) reachable(name string) bool {
	for _, m := range r.Members {
		if m.Name == name {
			return m.Reachable
		}
	}
	return false
}

// epoch is the epoch that a member has applied.
func (w *world) epoch(t *testing.T, node string) uint64 {
	t.Helper()
	s, err := w.StatusOf(node)
	check(t, err)
	return s.Epoch
}

// cli runs the command line on a node and expects an exit code. A failure must
// say on standard error what failed.
func (w *world) cli(t *testing.T, node string, code int, args ...string) lab.Output {
	t.Helper()
	out, err := w.RunCLI(within(t, time.Minute), node, args...)
	check(t, err)
	if out.Code != code {
		t.Fatalf("holdfast %s on %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), node, out.Code, code, out.Stdout, out.Stderr)
	}
	if code != 0 && out.Stderr == "" {
		t.Fatalf("holdfast %s on %s: exit code %d without a word", strings.Join(args, " "), node, code)
	}
	return out
}

func wantText(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

// failover moves the address by hand and waits until it is there.
func (w *world) failover(t *testing.T, to string) {
	t.Helper()
	if w.Holder() != to {
		w.cli(t, to, 0, "failover", "--to", to)
	}
	w.holder(t, to)
}

// get asks a node's status port, as a load balancer on that node would.
func (w *world) get(t *testing.T, node, path string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			err = w.lab.Do(node, func() error {
				var dialErr error
				conn, dialErr = net.DialTimeout("tcp4", "127.0.0.1:7401", 2*time.Second)
				return dialErr
			})
			return conn, err
		},
	}}
	resp, err := client.Get("http://status" + path)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, string(body)
}

// log returns everything that a node has logged, of all its starts.
func (w *world) log(t *testing.T, node string) string {
	t.Helper()
	var all strings.Builder
	for _, file := range w.lab.LogFiles(node) {
		raw, err := os.ReadFile(file)
		check(t, err)
		all.Write(raw)
	}
	return all.String()
}

// lines are the lines of a text that have all the words.
func lines(text string, words ...string) []string {
	var found []string
	for _, line := range strings.Split(text, "\n") {
		if !slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(line, s) }) {
			found = append(found, line)
		}
	}
	return found
}

// watch is a running measurement.
type watch struct {
	*lab.Probe
	t *testing.T
}

// listen begins to measure who answers for an address, the IPv4 one when none
// is named.
func (w *world) listen(t *testing.T, o ...lab.ProbeOptions) *watch {
	t.Helper()
	options := lab.ProbeOptions{}
	if len(o) > 0 {
		options = o[0]
	}
	options.Rate = 500
	p, err := w.lab.StartProbe(options)
	check(t, err)
	return &watch{p, t}
}

// watch is listen, and returns once somebody has answered.
func (w *world) watch(t *testing.T, o ...lab.ProbeOptions) *watch {
	t.Helper()
	p := w.listen(t, o...)
	p.owner("")
	return p
}

// safe ends the measurement: it must be valid and show no double.
func (x *watch) safe() *lab.Report {
	x.t.Helper()
	r, err := x.Stop()
	check(x.t, err)
	x.t.Log(r)
	if err := r.Valid(); err != nil {
		x.t.Fatal(err)
	}
	if r.DoubleCount != 0 || r.AnswerDoubleCount != 0 {
		x.t.Fatalf("two hosts answered at once: %+v %+v", r.Doubles, r.AnswerDoubles)
	}
	return r
}

// safeWithin is safe, and no gap may be longer than limit.
func (x *watch) safeWithin(limit time.Duration) *lab.Report {
	x.t.Helper()
	r := x.safe()
	if g := r.Longest.Duration(); g > limit {
		x.t.Errorf("gap of %v, want at most %v", g, limit)
	}
	return r
}

// untouched ends a measurement in which the address must not have moved.
func (x *watch) untouched() {
	x.t.Helper()
	if r := x.safeWithin(undisturbed); r.ChangeCount != 0 {
		x.t.Errorf("the address moved: %+v", r.Changes)
	}
}

// owner waits until the client hears the node.
func (x *watch) owner(node string) {
	x.t.Helper()
	_, err := x.WaitOwner(within(x.t, settle), node)
	check(x.t, err)
}
