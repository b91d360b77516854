package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/control/controltest"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Covers S8: the words and exit codes of the command line for buckets.

// kvCLI runs holdfast kv against n.
func kvCLI(t *testing.T, n *controltest.Node) func(args ...string) (int, string, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "control.sock")
	controltest.Serve(t, socket, n)
	return func(args ...string) (int, string, string) {
		t.Helper()
		return holdfast(t, append([]string{"--socket", socket, "kv"}, args...)...)
	}
}

// giveStdin makes text the standard input of this process for a test.
func giveStdin(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdin
	os.Stdin = file
	t.Cleanup(func() {
		os.Stdin = old
		_ = file.Close()
	})
}

func TestKV(t *testing.T) {
	run := kvCLI(t, controltest.New())
	giveStdin(t, "from\nstdin\x00")
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string // a part of it
	}{
		{"put sessions a 1", exitDone, "revision 1\n", ""},
		{"put sessions a 2 --if-rev 1", exitDone, "revision 2\n", ""},
		{"put sessions a 3 --if-rev 1", exitRefused, "", `kv put: key "a" has revision 2, not 1`},
		{"put sessions a 3 --if-absent", exitRefused, "", "is there already, with revision 2\nhint: "},
		{"put sessions a 3 --if-rev 0", exitRefused, "", "is there already"},
		{"put sessions b 3 --if-absent --ttl 30m", exitDone, "revision 3\n", ""},
		{"put sessions b 3 --if-absent --if-rev 3", exitUsage, "", "can't be used together"},
		{"put sessions b 3 --ttl 0s", exitUsage, "", "time to live"},
		{"put sessions user/carol -", exitDone, "revision 4\n", ""},
		{"put sessions dave -q x", exitDone, "", ""},
		{"put sessions eve -- -1", exitDone, "revision 6\n", ""},
		{"get sessions a", exitDone, "2", ""},
		{"get sessions user/carol", exitDone, "from\nstdin\x00", ""},
		{"get sessions a --local -q", exitDone, "", ""},
		{"get sessions none", exitRefused, "", `no key "none" in bucket sessions`},
		{"get nothere a", exitRefused, "", "no bucket nothere; there are receipts, sessions, tasks"},
		{"get Nothere a", exitUsage, "", "a name is"},
		{"get sessions a --json", exitDone, "{\n  \"key\": \"a\",\n  \"rev\": 2,\n  \"value\": \"Mg==\",\n  \"expires\": null\n}\n", ""},
		{"put tasks t v --json", exitDone, "{\n  \"rev\": 7\n}\n", ""},
		{"list tasks", exitDone, "KEY  REV  SIZE  EXPIRES\nt    7    1     never\n", ""},
		{"list sessions b", exitDone, "KEY  REV  SIZE  EXPIRES\nb    3    1     in 30m0s\n", ""},
		{"list sessions --limit 1", exitDone, "KEY  REV  SIZE  EXPIRES\na    2    1     never\n", "more: --after 'a'"},
		{"list sessions --after eve --local", exitDone, "KEY         REV  SIZE  EXPIRES\nuser/carol  4    11    never\n", ""},
		{"list receipts", exitDone, "", ""},
		{"list sessions --limit 0", exitUsage, "", "--limit 0"},
		{"list sessions --limit 10001", exitUsage, "", "limit"},
		{"del sessions a --if-rev 9", exitRefused, "", "has revision 2, not 9"},
		{"del sessions a", exitDone, "revision 8\n", ""},
		{"del sessions a", exitRefused, "", "no key"},
		{"del sessions b --if-rev 0", exitUsage, "", "revision 0"},
		{"put sessions " + strings.Repeat("k", 1025) + " v", exitUsage, "", "bytes of the key"},
		{"get sessions", exitUsage, "", "expected"},
	} {
		code, stdout, stderr := run(strings.Fields(c.args)...)
		if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) || (stderr == "") != (c.stderr == "") {
			t.Errorf("kv %s: exit %d\n%s%s\nwant exit %d\n%s...%s", c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
	}
}

func TestKVLists(t *testing.T) {
	run := kvCLI(t, controltest.New())
	for _, key := range []string{"plain", "with space", "line\nbreak", `"q"`} {
		if code, _, stderr := run("put", "sessions", key, "v"); code != exitDone {
			t.Fatal(stderr)
		}
	}
	_, stdout, _ := run("list", "sessions")
	for _, want := range []string{"\nplain ", "\n\"with space\" ", "\n\"line\\nbreak\" ", "\n\"\\\"q\\\"\" "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	_, stdout, _ = run("list", "sessions", "--json", "--limit", "2")
	var page kvPage
	if err := json.Unmarshal([]byte(stdout), &page); err != nil || len(page.Keys) != 2 || page.Next != "line\nbreak" || page.Rev != 4 || page.Keys[1].Expires != nil {
		t.Errorf("%v: %s", err, stdout)
	}
	if _, stdout, _ = run("list", "receipts", "--json"); !strings.Contains(stdout, `"keys": []`) {
		t.Errorf("empty list: %s", stdout)
	}
}

func TestKVExitCodes(t *testing.T) {
	for _, c := range []struct {
		code control.Code
		want int
	}{
		{control.NoQuorum, exitRefused},
		{control.PreconditionFailed, exitRefused},
		{control.NotFound, exitRefused},
		{control.QuotaExceeded, exitRefused},
		{control.DiskFull, exitRefused},
		{control.TooLarge, exitUsage},
		{control.Invalid, exitUsage},
		{control.Forbidden, exitFailed},
		{control.Timeout, exitFailed},
		{control.Internal, exitFailed},
	} {
		n := controltest.New()
		n.Before = func(kv.Request) error { return &control.Error{Code: c.code, Message: "it failed", Hint: "do this"} }
		code, _, stderr := kvCLI(t, n)("put", "sessions", "a", "1", "--timeout", "100ms")
		if code != c.want || !strings.Contains(stderr, "kv put: ") || !strings.Contains(stderr, "it failed") || !strings.Contains(stderr, "hint: do this") {
			t.Errorf("%s: exit %d, want %d: %s", c.code, code, c.want, stderr)
		}
	}
	code, _, stderr := holdfast(t, "--socket", filepath.Join(t.TempDir(), "none.sock"), "kv", "get", "sessions", "a")
	if code != exitUnreachable || !strings.Contains(stderr, "hint: is it running?") {
		t.Errorf("no daemon: exit %d: %s", code, stderr)
	}
}

// A write that had no answer is sent again until there is one, and happened
// once.
func TestKVWaitsForAFailover(t *testing.T) {
	n := controltest.New()
	tries := 0
	n.After = func(kv.Request) error {
		if tries++; tries <= 3 {
			return &control.Error{Code: control.Timeout, Message: "leader lost"}
		}
		return nil
	}
	if code, stdout, stderr := kvCLI(t, n)("put", "sessions", "a", "1", "--if-absent"); code != exitDone || stdout != "revision 1\n" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// lockedBuffer is an output that a test reads while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) wait(t *testing.T, lines int) string {
	t.Helper()
	for range 500 {
		if s := l.String(); strings.Count(s, "\n") >= lines {
			return s
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d lines never came: %q", lines, l.String())
	return ""
}

func TestKVWatch(t *testing.T) {
	n := controltest.New()
	socket := filepath.Join(t.TempDir(), "control.sock")
	controltest.Serve(t, socket, n)
	do := func(args ...string) {
		t.Helper()
		if code, _, stderr := holdfast(t, append([]string{"--socket", socket, "kv"}, args...)...); code != exitDone {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	do("put", "sessions", "a", "1")
	do("put", "sessions", "b", strings.Repeat("ü", 50))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var text, lines, errs lockedBuffer
	var wg sync.WaitGroup
	for _, c := range []struct {
		out  *lockedBuffer
		args []string
	}{
		{&text, []string{"--from", "1"}},
		{&lines, []string{"--from", "1", "--json", "--timeout", "50ms"}},
	} {
		wg.Go(func() {
			if code := Run(ctx, append([]string{"--socket", socket, "kv", "watch", "sessions"}, c.args...), c.out, &errs); code != exitDone {
				t.Errorf("exit %d: %s", code, errs.String())
			}
		})
	}
	text.wait(t, 2)
	time.Sleep(100 * time.Millisecond) // past the limit, which is for the beginning only
	do("del", "sessions", "a")
	got := text.wait(t, 3)
	want := "put          1  a  \"1\"\n" + "put          2  b  \"" + strings.Repeat("ü", 40) + "\"...\n" + "delete       3  a\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	got = lines.wait(t, 3)
	want = `{"type":"put","key":"a","rev":1,"value":"MQ==","created":1}` + "\n"
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, `{"type":"delete","key":"a","rev":3}`+"\n") {
		t.Errorf("got\n%s", got)
	}
	cancel() // an interrupt is the normal end
	wg.Wait()
}

func TestKVWatchFails(t *testing.T) {
	n := controltest.New()
	n.Reading = func(bool) error { return &control.Error{Code: control.NoQuorum, Message: "no leader", Hint: "wait"} }
	run := kvCLI(t, n)
	if code, _, stderr := run("watch", "sessions", "--timeout", "50ms"); code != exitRefused || !strings.Contains(stderr, "no leader") {
		t.Errorf("no quorum: exit %d: %s", code, stderr)
	}
	n.Reading = nil
	for i := range kv.MaxHistoryEvents/128 + 2 {
		var r kv.Request
		for j := range 128 {
			r.Then = append(r.Then, kv.Op{Kind: kv.OpPut, Bucket: "tasks", Key: fmt.Sprint(j)})
		}
		if _, err := n.Update(t.Context(), r); err != nil {
			t.Fatal(i, err)
		}
	}
	if code, _, stderr := run("watch", "sessions", "--from", "1"); code != exitRefused || !strings.Contains(stderr, "no longer in the history") {
		t.Errorf("compacted: exit %d: %s", code, stderr)
	}
}
