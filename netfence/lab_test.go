package netfence

import (
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// needRoot skips a test that changes the kernel's network; in CI that fails.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root: it loads BPF programs and makes network namespaces")
}

// inNewNamespace puts the test on a thread of its own in a new, empty network
// namespace until it ends.
func inNewNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	h, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(old); err != nil {
			panic(err) // the thread must not go on in the wrong namespace
		}
		runtime.UnlockOSThread()
		_ = old.Close()
		_ = h.Close()
	})
	run(t, "ip", "link", "set", "lo", "up")
	return h
}

// run executes a command in the namespace of the calling thread.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pinRoot returns a directory for pins that outlives the test's mounts only as
// long as the test.
func pinRoot(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, nil))
}

// loadFence loads a fence that the test closes if it does not do so itself.
func loadFence(t testing.TB, dir, mode string) *Fence {
	t.Helper()
	f, err := Load(Options{PinDir: dir, Mode: mode, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if f.Mode() != mode && mode != ModeAuto {
		t.Fatalf("mode is %s, want %s", f.Mode(), mode)
	}
	return f
}

// openGate makes the worker's side of f with the number 7.
func openGate(t testing.TB, f *Fence, number uint64) *Gate {
	t.Helper()
	if err := f.SetIncarnation(number); err != nil {
		t.Fatal(err)
	}
	files, err := f.GateFiles()
	if err != nil {
		t.Fatal(err)
	}
	g, err := OpenGate(files)
	for _, file := range files {
		_ = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Errorf("close gate: %v", err)
		}
	})
	return g
}

// open opens a group for 30 s from now.
func open(t testing.TB, g *Gate, group uint16) {
	t.Helper()
	now := clock.Boottime()
	if err := g.Open(group, now+30e9, now); err != nil {
		t.Fatal(err)
	}
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// emptyInstructions is a program that has no opinion.
func emptyInstructions() asm.Instructions { return constant(-1) }

// constant is a program that always says the same.
func constant(verdict int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}
}
