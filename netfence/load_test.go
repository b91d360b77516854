package netfence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// TestLoadErrors covers that each refusal has its class and a hint, and that
// nothing is left behind.
func TestLoadErrors(t *testing.T) {
	inNewNamespace(t)
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	for name, tc := range map[string]struct {
		o    Options
		want error
		hint string
	}{
		"tcx without pins": {Options{Mode: ModeTCX}, ErrNoBPFFS, "pin directory"},
		"tcx over a file":  {Options{Mode: ModeTCX, PinDir: filepath.Join(file, "x")}, unix.ENOTDIR, ""},
		"unknown mode":     {Options{Mode: "xdp"}, nil, "clsact"},
	} {
		f, err := Load(tc.o)
		if err == nil {
			check(t, f.Close())
			t.Errorf("%s: loaded", name)
			continue
		}
		if tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestModeSelection covers the environment variable and the fallback.
func TestModeSelection(t *testing.T) {
	inNewNamespace(t)
	t.Setenv(EnvAttach, ModeClsact)
	f := loadFence(t, pinRoot(t), ModeAuto)
	if f.Mode() != ModeClsact {
		t.Errorf("mode is %s although the environment says clsact", f.Mode())
	}
	check(t, f.Detach())
	t.Setenv(EnvAttach, "xdp")
	if _, err := Load(Options{}); err == nil {
		t.Error("unknown mode in the environment was accepted")
	}
	t.Setenv(EnvAttach, "")
	f = loadFence(t, "", ModeAuto)
	if f.Mode() != ModeClsact {
		t.Errorf("mode is %s although nothing can be pinned", f.Mode())
	}
	check(t, f.Close())
	dir := pinRoot(t)
	f = loadFence(t, dir, ModeAuto)
	if durable := f.pins.isDurable(); (f.Mode() == ModeTCX) != durable {
		t.Errorf("mode is %s with durable pins %v", f.Mode(), durable)
	}
	check(t, f.Detach())
}

// withoutCapabilities runs f on a thread of its own that has none.
func withoutCapabilities(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its capabilities
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// TestMissingCapability drops what loading needs on a thread of its own.
func TestMissingCapability(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "bpf")
	err := withoutCapabilities(func() error {
		f, err := Load(Options{PinDir: dir})
		if err == nil {
			err = errors.Join(errors.New("loaded without capabilities"), f.Close())
		}
		return err
	})
	if !errors.Is(err, ErrNoCapability) || !strings.Contains(err.Error(), "CAP_BPF") {
		t.Errorf("load without capabilities: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pin directory was left behind: %v", err)
	}
}

// TestWorkerNeedsNoCapability covers that a worker gets by with the files it is
// given (its kernel permitting: before 6.0 the bpf call itself needs CAP_BPF),
// and that it cannot change the guard's number.
func TestWorkerNeedsNoCapability(t *testing.T) {
	inNewNamespace(t)
	fence := loadFence(t, pinRoot(t), ModeClsact)
	check(t, fence.SetIncarnation(testNumber))
	files, err := fence.GateFiles()
	check(t, err)
	err = withoutCapabilities(func() error {
		g, err := OpenGate(files)
		if err != nil {
			return err
		}
		now := clock.Boottime()
		if err := errors.Join(g.SetVIPs(bothVIPs), g.SetForwarding(1, vipGroup), g.Block([]Blocked{{Node: 1}}),
			g.SetMembers(map[[6]byte]uint64{memberMAC: 1}), g.Open(vipGroup, now+1e9, now)); err != nil {
			return err
		}
		if v, err := g.Read(vipGroup); err != nil || !v.Open {
			return fmt.Errorf("gate is %+v: %w", v, err)
		}
		_, err = g.Counters()
		number := g.t.maps[".data.control"]
		if put := number.Put(uint32(0), uint64(9)); !errors.Is(put, unix.EPERM) {
			err = errors.Join(err, fmt.Errorf("write of the guard's number: %v", put))
		}
		return errors.Join(err, g.CloseGroup(vipGroup), g.Close())
	})
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		check(t, f.Close())
	}
	check(t, fence.Detach())
}
