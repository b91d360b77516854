package control

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAllowed(t *testing.T) {
	const self, owner, group, other = 100, 100, 200, 300
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	info := func(mode os.FileMode) os.FileInfo {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		i, err := os.Lstat(file)
		if err != nil {
			t.Fatal(err)
		}
		stat, _ := i.Sys().(*syscall.Stat_t)
		stat.Uid, stat.Gid = owner, group
		return i
	}
	for _, c := range []struct {
		name   string
		caller Caller
		mode   os.FileMode
		want   bool
	}{
		{"root", Caller{UID: 0, GID: 0}, 0o600, true},
		{"daemon's user", Caller{UID: self, GID: other}, 0o600, true},
		{"group", Caller{UID: other, GID: group}, 0o660, true},
		{"supplementary group", Caller{UID: other, GID: other, Groups: []uint32{1, group}}, 0o660, true},
		{"group without write", Caller{UID: other, GID: group}, 0o640, false},
		{"other", Caller{UID: other, GID: other}, 0o660, false},
		{"other on an open file", Caller{UID: other, GID: other}, 0o666, false},
	} {
		if got := allowed(c.caller, self, info(c.mode)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A stranger gets past the file's mode (opened up by mistake) but not past the
// credentials. The test runs itself again under another user.
func TestStrangerIsForbidden(t *testing.T) {
	if path := os.Getenv("HOLDFAST_TEST_SOCKET"); path != "" {
		code, body := raw(t, path, http.MethodGet, "/v1/status", "")
		_, _ = os.Stdout.WriteString(http.StatusText(code) + " " + body)
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to become another user")
		}
		t.Skip("needs root to become another user")
	}
	// Another user must reach the socket and this binary: t.TempDir is private.
	dir, err := os.MkdirTemp("", "holdfast-control-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "control.test")
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, text, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	startAt(t, path, &desk{})
	for _, c := range []struct {
		name          string
		mode          os.FileMode
		uid, gid, sup uint32
		want          string
	}{
		{"stranger", 0o666, 65534, 65534, 65534, "Forbidden"},
		{"group", 0o660, 65534, 4321, 65534, "OK"},
		{"supplementary group", 0o660, 65534, 65534, 4321, "OK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.Chown(path, 0, 4321); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestStrangerIsForbidden$")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "HOLDFAST_TEST_SOCKET="+path, "GOCOVERDIR="+dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.gid, Groups: []uint32{c.sup}}}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), c.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
