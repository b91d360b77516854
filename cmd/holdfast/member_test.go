package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
)

// memberDaemon answers what concerns members.
type memberDaemon struct {
	daemon
	list   control.MemberList
	listed int
	asked  []control.MemberRequest
	change error
}

func (d *memberDaemon) Members(context.Context) (control.MemberList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listed++
	return d.list, d.err
}

func (d *memberDaemon) lists() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.listed
}

func (d *memberDaemon) ChangeMember(_ context.Context, r control.MemberRequest) (control.MemberResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, r)
	return control.MemberResult{Op: r.Op, Name: r.Name, State: "done", Index: 120}, d.change
}

func (d *memberDaemon) socket(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	server, err := control.Listen(control.Options{Path: path, Backend: d, Logger: slog.New(slog.DiscardHandler)})
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
	return path
}

func sampleMembers() control.MemberList {
	return control.MemberList{
		Members: []control.MemberInfo{
			{Name: "gw1", Role: "gateway", RaftID: "00000000000000a1", State: "voter", InFile: true, Connected: true, Match: 1088},
			{Name: "gw2", Role: "gateway", RaftID: "00000000000000a2", State: "learner", InFile: true, Connected: true, Match: 17},
			{Name: "gw3", Role: "gateway", State: "absent", InFile: true},
			{Name: "w1", Role: "witness", RaftID: "00000000000000a3", State: "voter"},
		},
		Differences: []string{"gw3 is in the file and not a member: holdfast member add gw3"},
		Waiting:     "gw2 is being filled: index 17 of 1088",
	}
}

func TestMemberList(t *testing.T) {
	d := &memberDaemon{list: sampleMembers()}
	socket := d.socket(t)
	code, out, errs := holdfast(t, "--socket", socket, "member", "list")
	if code != exitDone || errs != "" {
		t.Fatalf("exit %d, %s", code, errs)
	}
	golden(t, "members.txt", out)

	code, out, _ = holdfast(t, "--socket", socket, "--json", "member", "list")
	var list control.MemberList
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitDone || len(list.Members) != 4 || list.Waiting == "" {
		t.Errorf("exit %d, %v:\n%s", code, err, out)
	}
	if code, out, _ = holdfast(t, "--socket", socket, "-q", "member", "list"); code != exitDone || out != "" {
		t.Errorf("quiet: exit %d, %q", code, out)
	}
}

func TestMemberChanges(t *testing.T) {
	d := &memberDaemon{}
	socket := d.socket(t)
	for op, says := range map[string]string{"add": "gw3 is added, configuration 120", "remove": "gw3 is removed", "replace": "gw3 is replaced"} {
		d.asked = nil
		code, out, errs := holdfast(t, "--socket", socket, "member", op, "gw3")
		if code != exitDone || !strings.Contains(out, says) || errs != "" {
			t.Errorf("%s: exit %d, %q, %q", op, code, out, errs)
		}
		if len(d.asked) != 1 || d.asked[0] != (control.MemberRequest{Op: op, Name: "gw3"}) {
			t.Errorf("%s asked %+v", op, d.asked)
		}
	}
	code, out, _ := holdfast(t, "--socket", socket, "--json", "member", "add", "gw3")
	var result control.MemberResult
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != exitDone || result.Index != 120 || result.Op != "add" {
		t.Errorf("exit %d, %v, %s", code, err, out)
	}
}

// While a change takes its time, each thing that it waits for is said once.
func TestMemberProgress(t *testing.T) {
	d := &memberDaemon{list: sampleMembers()}
	client := control.NewClient(d.socket(t))
	defer client.Close()
	said := make(lines, 16)
	stop := watchMembers(&app{ctx: t.Context(), stderr: said, cli: &cli{}}, client, time.Millisecond)
	if got := <-said; got != "gw2 is being filled: index 17 of 1088\n" {
		t.Errorf("said %q", got)
	}
	for before := d.lists(); d.lists() < before+5; { // asked again, with the same answer
		time.Sleep(time.Millisecond)
	}
	d.mu.Lock()
	d.list.Waiting = "the last change is too recent"
	d.mu.Unlock()
	if got := <-said; got != "the last change is too recent\n" {
		t.Errorf("said %q", got)
	}
	stop()
}

// lines hands on what is written.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

func TestMemberFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		args []string
		code int
		says string
	}{
		"refused":       {&control.Error{Code: control.PreconditionFailed, Message: "gw2 is the last gateway", Hint: "add another first: holdfast member add NAME"}, []string{"remove", "gw2"}, exitRefused, "last gateway"},
		"unknown":       {&control.Error{Code: control.NotFound, Message: "gw9 is not a member", Hint: "holdfast member list"}, []string{"remove", "gw9"}, exitRefused, "not a member"},
		"takes longer":  {&control.Error{Code: control.Timeout, Message: "not done yet", Hint: "holdfast member list"}, []string{"add", "gw3"}, exitFailed, "not done yet"},
		"name missing":  {nil, []string{"add"}, exitUsage, "name"},
		"word mistyped": {nil, []string{"ad", "gw3"}, exitUsage, "ad"},
	} {
		d := &memberDaemon{change: tc.err}
		code, out, errs := holdfast(t, append([]string{"--socket", d.socket(t), "member"}, tc.args...)...)
		if code != tc.code || out != "" || !strings.Contains(errs, tc.says) || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: exit %d, %q, %q", name, code, out, errs)
		}
	}
	if code, _, _ := holdfast(t, "--socket", "/nowhere/control.sock", "member", "list"); code != exitUnreachable {
		t.Errorf("no daemon: exit %d", code)
	}
}
