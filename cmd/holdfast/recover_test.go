package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// host is a data directory with a configuration of gw1, gw2 and w1.
type host struct {
	dir, file, data string
	first           storage.FirstConfig
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{dir: dir, file: filepath.Join(dir, "c.toml"), data: filepath.Join(dir, "data")}
	h.first = storage.FirstConfig{
		Cluster: "site-a", Profile: storage.Profile{Beat: 50 * time.Millisecond, Promise: 500 * time.Millisecond, Epsilon: 20 * time.Millisecond},
		Groups: []storage.Group{{Name: "default", VIPs: []storage.VIP{{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Scope: storage.ScopeVIP}}}},
	}
	var b strings.Builder
	fmt.Fprintf(&b, "cluster = \"site-a\"\n[node]\nname = \"gw1\"\ndata_dir = %q\nruntime_dir = %q\nkey_file = %q\n", h.data, filepath.Join(dir, "run"), filepath.Join(dir, "key"))
	for i, name := range []string{"gw1", "gw2", "w1"} {
		key, role := [32]byte{byte(i + 1)}, "gateway"
		m := storage.Member{Name: name, PublicKey: key, RaftID: uint64(i + 100), Role: storage.Gateway}
		if name == "w1" {
			role, m.Role = "witness", storage.Witness
		}
		h.first.Members = append(h.first.Members, m)
		fmt.Fprintf(&b, "[[member]]\nname = %q\naddresses = [\"10.77.0.%d:7400\"]\npublic_key = %q\nrole = %q\n", name, i+1, base64.StdEncoding.EncodeToString(key[:]), role)
	}
	b.WriteString("[[vip]]\naddress = \"10.77.0.100/24\"\ninterface = \"eth0\"\n")
	if err := errors.Join(os.WriteFile(h.file, []byte(b.String()), 0o600), os.Mkdir(filepath.Join(dir, "run"), 0o700), os.Mkdir(h.data, 0o700)); err != nil {
		t.Fatal(err)
	}
	return h
}

// fill founds the directory and writes n keys, of which the last is not known
// to be committed.
func (h *host) fill(t *testing.T, n int) {
	t.Helper()
	d, err := storage.OpenData(vfs.OS, h.data)
	if err != nil {
		t.Fatal(err)
	}
	h.first.Members[0].RaftID = d.RaftID()
	if err := d.PublishFirst(h.first, storage.Empty); err != nil {
		t.Fatal(err)
	}
	l, _, _, err := d.OpenLog(storage.LogOptions{SegmentBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var entries []*raftpb.Entry
	for i := range n {
		data, err := storage.Command{Op: storage.Batch{Batch: &kv.Batch{Clock: 1, MaxBytes: 1 << 20, Requests: []kv.Request{{
			Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: fmt.Sprint("key", i), Value: []byte("value")}},
		}}}}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &raftpb.Entry{Index: new(uint64(i + 2)), Term: new(uint64(3)), Data: data})
	}
	done := make(chan error, 1)
	l.Save(&raftpb.HardState{Term: new(uint64(3)), Vote: new(uint64(101)), Commit: new(uint64(max(n, 1)))}, entries, func(err error) { done <- err })
	if err := errors.Join(<-done, l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
}

// run runs a recover command on the host.
func (h *host) run(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	code, out, errs := holdfast(t, append([]string{"recover", "-c", h.file}, args...)...)
	if code != want || code != 0 && !strings.Contains(errs, "hint: ") {
		t.Fatalf("recover %v: exit code %d, want %d\n%s%s", args, code, want, out, errs)
	}
	return out, errs
}

func (h *host) inspect(t *testing.T) (report inspectReport) {
	t.Helper()
	out, _ := h.run(t, 0, "inspect", "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	return report
}

func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

// Covers F4, S9: looking changes nothing, founding says what may be lost and
// asks once more, and what it made is a new cluster with the old data.
func TestRecoverFound(t *testing.T) {
	h := newHost(t)
	out, _ := h.run(t, 0, "inspect")
	says(t, out, "data of gw1 in "+h.data, "nothing: ")
	h.run(t, exitRefused, "found", "--yes")
	h.fill(t, 9)
	before := tree(t, h.data)
	c := h.inspect(t).Copies[0]
	if c.Label != "present" || !c.Usable || c.Name != "site-a" || c.Last != 10 || c.LastTerm != 3 || c.Commit != 9 || c.Verdict != "clean" || c.Keys != 9 || c.Revision != 9 || len(c.Damage) != 0 || len(c.Voters) != 3 {
		t.Errorf("%+v", c)
	}
	out, _ = h.run(t, 0, "inspect")
	says(t, out, "present  clean", c.Cluster+"  site-a", "to index 10 term 3", "committed to 9, 1 entry behind that not proved", "9 keys", "gw1, gw2, w1")
	out, errs := h.run(t, exitUsage, "found")
	says(t, out, "would found a new cluster on gw1", "may be lost", "behind index 10 term 3", "entries 10 to 10", "every other member must be stopped")
	says(t, errs, "--yes is missing", "hint: holdfast recover found -c "+h.file+" --yes")
	if after := tree(t, h.data); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}

	out, _ = h.run(t, 0, "found", "--yes", "--json")
	var done foundReport
	if err := json.Unmarshal([]byte(out), &done); err != nil || !done.Done || done.Index != 10+storage.Leap || len(done.Aside) != 3 || len(done.Lost) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	copies := h.inspect(t).Copies
	if len(copies) != 2 {
		t.Fatalf("%+v", copies)
	}
	now, old := copies[0], copies[1]
	if now.Cluster != done.Cluster || now.Cluster == c.Cluster || now.RaftID == c.RaftID || now.Keys != 9 || now.Revision != 9+storage.Leap ||
		now.Verdict != "clean" || len(now.Voters) != 1 || now.Voters[0] != "gw1" || now.Newest == nil || now.Newest.Kind != "recovery" ||
		!strings.HasPrefix(now.Newest.Actor, fmt.Sprintf("uid %d", os.Getuid())) || !strings.Contains(now.Newest.Detail, "may be lost") {
		t.Errorf("new %+v %+v", now, now.Newest)
	}
	if old.Cluster != c.Cluster || old.Last != 10 || old.Keys != 9 || old.Label == "present" {
		t.Errorf("old %+v", old)
	}
	_, errs = h.run(t, exitRefused, "rejoin", "--yes") // all that is left
	says(t, errs, "gw1 is the only voter")
	// An older set is no better than what is there; when named, it is taken.
	h.run(t, exitUsage, "found")
	says(t, first(h.run(t, exitUsage, "found", "--from", old.Label)), "copy      "+old.Label)
	h.run(t, exitRefused, "found", "--from", "none")
}

func first(a, _ string) string { return a }

// A node that has set its data aside by itself must not go on from nothing.
func TestRecoverFoundFromEvidence(t *testing.T) {
	h := newHost(t)
	h.fill(t, 20)
	segment := filepath.Join(h.data, "wal", "0000000000000001.wal")
	raw, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	raw[4096+200] ^= 1 // all is one batch
	if err := os.WriteFile(segment, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	c := h.inspect(t).Copies[0]
	if c.Verdict != "corrupt" || c.Last != 1 || len(c.Damage) == 0 {
		t.Errorf("%+v", c)
	}
	raw[4096+200] ^= 1
	if err := os.WriteFile(segment, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.SetAside(vfs.OS, h.data, "20260101T000000.000Z"); err != nil {
		t.Fatal(err)
	}
	_, errs := h.run(t, exitRefused, "found", "--yes")
	says(t, errs, "the set 20260101T000000.000Z", "--from 20260101T000000.000Z")
	// The same when it has begun to join a cluster that nobody can fill it from.
	h.fill(t, 0)
	h.run(t, exitRefused, "found", "--yes")
	h.run(t, exitRefused, "found", "--yes", "--from", "present") // nothing in it
	out, _ := h.run(t, 0, "found", "--yes", "--from", "20260101T000000.000Z")
	says(t, out, "founded on gw1", "kept as evidence: ", "may be lost:", "holdfast recover rejoin")
	if now := h.inspect(t).Copies[0]; now.Keys != 20 || now.Verdict != "clean" {
		t.Errorf("%+v", now)
	}
}

func TestRecoverRefuses(t *testing.T) {
	h := newHost(t)
	h.fill(t, 3)
	d, err := storage.OpenData(vfs.OS, h.data)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"inspect", "found", "rejoin"} {
		_, errs := h.run(t, exitRefused, command)
		says(t, errs, "another holdfast worker uses it", "systemctl stop holdfast")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := guard.LockRuntime(filepath.Join(h.dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	_, errs := h.run(t, exitRefused, "found", "--yes") // between two workers
	says(t, errs, "another holdfast runs")
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(h.file)
	if err != nil {
		t.Fatal(err)
	}
	for replace, want := range map[[2]string]string{
		{base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...)), base64.StdEncoding.EncodeToString(append([]byte{9}, make([]byte, 31)...))}: "another key",
		{`"gw1"`, `"gw9"`}: "gw9 is not a member",
	} {
		if err := os.WriteFile(h.file, []byte(strings.ReplaceAll(string(text), replace[0], replace[1])), 0o600); err != nil {
			t.Fatal(err)
		}
		_, errs := h.run(t, exitRefused, "found", "--yes")
		says(t, errs, want)
	}
	if code, _, _ := holdfast(t, "recover", "inspect", "-c", filepath.Join(h.dir, "none")); code != exitUsage {
		t.Errorf("no file: exit code %d", code)
	}
}

func TestRecoverRejoin(t *testing.T) {
	h := newHost(t)
	out, _ := h.run(t, 0, "rejoin", "--yes")
	says(t, out, "no data to set aside")
	h.fill(t, 3)
	before := tree(t, h.data)
	out, _ = h.run(t, exitUsage, "rejoin")
	says(t, out, "would give up its data", "to index 4", "to be set aside: "+filepath.Join(h.data, "wal"))
	if after := tree(t, h.data); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
	out, _ = h.run(t, 0, "rejoin", "--yes", "--json")
	var done rejoinReport
	if err := json.Unmarshal([]byte(out), &done); err != nil || !done.Done || len(done.Aside) != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	if copies := h.inspect(t).Copies; len(copies) != 1 || copies[0].Last != 4 {
		t.Errorf("%+v", copies)
	}
	h.run(t, 0, "rejoin")
}

// tree lists the files of a directory with their sizes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
