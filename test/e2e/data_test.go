package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/client"
	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// What the tests of the replicated state share.

// repaired is how long the repair of any one damaged node may take.
const repaired = 60 * time.Second

// state sets keys of the [state] table in every member's file.
func state(keys lab.Table) func(*lab.Node, lab.Table) {
	return func(_ *lab.Node, cfg lab.Table) { cfg["state"] = keys }
}

// conn is a client of the load generator through the nodes, all when none is
// named.
func (w *world) conn(t *testing.T, retry bool, nodes ...string) *kvload.Conn {
	t.Helper()
	if len(nodes) == 0 {
		nodes = w.Names()
	}
	var sockets []string
	for _, n := range nodes {
		sockets = append(sockets, w.Socket(n))
	}
	c := kvload.Dial(sockets...)
	c.Retry = retry
	t.Cleanup(c.Close)
	return c
}

// client is the product's own client of a node.
func (w *world) client(t *testing.T, node string) *client.Client {
	t.Helper()
	c := client.New(w.Socket(node))
	t.Cleanup(c.Close)
	return c
}

// during runs work beside the test until the function that it returns is
// called, which waits for its end.
func during(t *testing.T, work func(ctx context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// writing writes a ledger beside the test until the function that it returns
// is called; settled holds the writers.
func (w *world) writing(t *testing.T, l *kvload.Ledger, pause time.Duration, conns ...*kvload.Conn) (stop func()) {
	t.Helper()
	w.load = l
	return during(t, func(ctx context.Context) { l.Write(ctx, pause, conns...) })
}

// settled waits until every running member has applied the same entry, the
// leader's newest, and checks that their states are then the same.
func (w *world) settled(t *testing.T) {
	t.Helper()
	if w.load != nil {
		defer w.load.Hold()()
	}
	began := time.Now()
	eventually(t, func() error {
		var first *lab.Status
		for _, n := range w.Names() {
			if !w.Running(n) {
				continue
			}
			s, err := w.StatusOf(n)
			if err != nil {
				return err
			}
			if s.AsOf.Before(began) { // a status may be older than the last write
				return fmt.Errorf("status of %s is of %v", n, s.AsOf)
			}
			if s.State.Applied != s.State.Commit {
				return fmt.Errorf("%s has applied %d of %d", n, s.State.Applied, s.State.Commit)
			}
			if first == nil {
				first = s
			}
			if s.State.Applied != first.State.Applied {
				return fmt.Errorf("%s has applied %d, %s %d", n, s.State.Applied, first.Node, first.State.Applied)
			}
			if s.State.Hash != first.State.Hash || s.State.Hash == "" {
				t.Fatalf("the states at entry %d differ: %s has %q, %s has %q", s.State.Applied, n, s.State.Hash, first.Node, first.State.Hash)
			}
		}
		return nil
	})
}

// everywhere compares a ledger with what each member has by itself, and with
// what it answers for the cluster.
func (w *world) everywhere(t *testing.T, l *kvload.Ledger) {
	t.Helper()
	t.Log(l)
	w.settled(t)
	for i, n := range w.Names() {
		c := w.conn(t, false, n)
		// The states are equal: the values of one member are those of all.
		if err := l.Verify(within(t, settle), c, true, i == 0); err != nil {
			t.Errorf("local reads of %s: %v", n, err)
		}
		if err := l.Verify(within(t, settle), c, false, false); err != nil {
			t.Errorf("reads through %s: %v", n, err)
		}
	}
}

// raftID is who a node is in raft.
func (w *world) raftID(t *testing.T, node string) string {
	t.Helper()
	r, err := w.status(node)
	check(t, err)
	return r.Identity.RaftID
}

// rejoined waits until a node is back as a new voter: under another raft id
// than before, which every member has committed.
func (w *world) rejoined(t *testing.T, node, before string) {
	t.Helper()
	began := time.Now()
	var last error
	for ; time.Since(began) < repaired; time.Sleep(50 * time.Millisecond) {
		if last = w.isNewVoter(node, before); last == nil {
			t.Logf("%s was repaired in %v", node, time.Since(began).Round(10*time.Millisecond))
			w.settled(t)
			return
		}
	}
	t.Fatalf("%s was not repaired in %v: %v", node, repaired, last)
}

func (w *world) isNewVoter(node, before string) error {
	own, err := w.status(node)
	if err != nil {
		return err
	}
	if own.Identity.RaftID == before || own.Role == "joining" || own.Role == "abstain" {
		return fmt.Errorf("role %q, raft id %s, before it was %s, conditions %v", own.Role, own.Identity.RaftID, before, own.Conditions)
	}
	for _, n := range w.Names() {
		r, err := w.status(n)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Members, func(m lab.Member) bool { return m.Name == node })
		if i < 0 || r.Members[i].State != "voter" || r.Members[i].RaftID != own.Identity.RaftID {
			return fmt.Errorf("%s says of %s: %+v, waiting for %q", n, node, r.Members, r.Membership.Waiting)
		}
	}
	return nil
}

// auditEvent is a line of `holdfast audit list --json`.
type auditEvent struct {
	Seq, Index, Epoch                           uint64
	Kind, Actor, Node, Group, Cause, Detail, At string
}

// trail is the audit trail as a node has it.
func (w *world) trail(t *testing.T, node string, kinds ...string) []auditEvent {
	t.Helper()
	args := []string{"audit", "list", "--json"}
	if len(kinds) > 0 {
		args = append(args, "--kind", strings.Join(kinds, ","))
	}
	var all []auditEvent
	for line := range strings.Lines(w.cli(t, node, 0, args...).Stdout) {
		var e auditEvent
		check(t, json.Unmarshal([]byte(line), &e))
		all = append(all, e)
	}
	return all
}

// audited waits until the trail has an event of that kind about a node, later
// than number after, with a cause when one is named.
func (w *world) audited(t *testing.T, through string, after uint64, kind, node, cause string) auditEvent {
	t.Helper()
	var found auditEvent
	eventually(t, func() error {
		all := w.trail(t, through, kind)
		for _, e := range slices.Backward(all) {
			if e.Seq > after && e.Node == node && (cause == "" || e.Cause == cause) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("no event %q of cause %q about %s in %+v", kind, cause, node, all)
	})
	return found
}

// lastAudit is the number of the newest event.
func (w *world) lastAudit(t *testing.T, through string) uint64 {
	t.Helper()
	all := w.trail(t, through)
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].Seq
}

const big = 256 << 10 // bytes of the values that make a log grow

// grow writes big values over few keys until cond is true.
func (w *world) grow(t *testing.T, what string, cond func() bool) {
	t.Helper()
	c := w.conn(t, true)
	value := strings.Repeat("grow ", big/5)
	for i := 0; !cond(); i++ {
		if i == 400 { // 100 MiB
			t.Fatalf("not after %d MiB of writes: %s", i*big>>20, what)
		}
		_, err := c.Put(within(t, settle), "receipts", fmt.Sprintf("grow/%d", i%8), value, kvload.Cond{}, 0)
		check(t, err)
	}
}

// sealed writes until a node has a segment of the log that is full, and
// returns the oldest.
func (w *world) sealed(t *testing.T, node string) string {
	t.Helper()
	segments := func() []string {
		files, err := filepath.Glob(filepath.Join(w.DataDir(node), "wal", "*.wal"))
		check(t, err)
		slices.Sort(files)
		return files
	}
	w.grow(t, node+" has a sealed segment", func() bool { return len(segments()) >= 2 })
	w.settled(t) // nothing is released from here on
	found := segments()
	if len(found) < 2 {
		t.Fatalf("segments %v", found)
	}
	return found[0]
}

// walRecord is a line of `holdfast wal inspect --json`.
type walRecord struct {
	Segment string
	Offset  int64
	Length  int
	Index   uint64
	State   string
}

// records are those that are long enough to be damaged, in one segment when
// one is named.
func (w *world) records(t *testing.T, node, segment string) []walRecord {
	t.Helper()
	out, err := w.RunCLI(within(t, settle), node, "wal", "inspect", "--json", filepath.Join(w.DataDir(node), "wal"))
	check(t, err)
	var all []walRecord
	for line := range strings.Lines(out.Stdout) {
		var r walRecord
		check(t, json.Unmarshal([]byte(line), &r))
		if r.Length > 8 && (segment == "" || filepath.Base(r.Segment) == filepath.Base(segment)) {
			all = append(all, r)
		}
	}
	if len(all) < 5 {
		t.Fatalf("%d records of %s: %s %s", len(all), node, out.Stdout, out.Stderr)
	}
	return all
}

// rotSegment damages a record in the middle of a segment; "" is any.
func (w *world) rotSegment(t *testing.T, node, segment string) *lab.Fault {
	t.Helper()
	all := w.records(t, node, segment)
	hit := all[len(all)/2] // long acknowledged: later ones are there
	file := hit.Segment
	if !filepath.IsAbs(file) {
		file = filepath.Join(w.DataDir(node), "wal", file)
	}
	// The payload may span the tags of sectors; any of its bytes will do.
	return broken(t)(w.Flip(node, file, hit.Offset+int64(hit.Length)/2+4))
}

// snapshot returns the newest snapshot file of a node, and writes until there
// is one.
func (w *world) snapshot(t *testing.T, node string) string {
	t.Helper()
	var files []string
	w.grow(t, node+" has a snapshot", func() bool {
		var err error
		files, err = w.DataFiles(node, "HFSNAPSH")
		check(t, err)
		r, err := w.status(node)
		check(t, err)
		return len(files) > 0 && r.State.Snapshot > 0
	})
	w.settled(t)
	files, err := w.DataFiles(node, "HFSNAPSH")
	check(t, err)
	return files[len(files)-1]
}
