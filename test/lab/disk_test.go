package lab_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// synced writes and syncs, and returns how long it took.
func synced(t *testing.T, name string, data []byte) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	return time.Since(began), err
}

func TestDisksOfMembersFillHangAndSlowDown(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1})
	c := newCluster(t, l, lab.ClusterOptions{Disks: map[string]int64{"gw1": 32 << 20}})
	file := filepath.Join(c.DataDir("gw1"), "file")
	if took, err := synced(t, file, make([]byte, 1<<20)); err != nil || took > 5*time.Second {
		t.Fatalf("write to an idle disk: %v after %v", err, took)
	}

	full := made(t)(c.FillDisk("gw1", 64<<10))
	if room, err := c.Room("gw1"); err != nil || room > 128<<10 {
		t.Errorf("room %d after filling, %v", room, err)
	}
	if _, err := synced(t, filepath.Join(c.DataDir("gw1"), "more"), make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write to a full disk: %v", err)
	}
	if _, err := synced(t, file, make([]byte, 1<<20)); err != nil {
		t.Errorf("write over what is there on a full disk: %v", err)
	}
	if _, err := synced(t, filepath.Join(c.DataDir("gw2"), "more"), make([]byte, 1<<20)); err != nil {
		t.Errorf("write to another member's disk: %v", err)
	}
	undo(t, full)
	if _, err := synced(t, filepath.Join(c.DataDir("gw1"), "more"), make([]byte, 1<<20)); err != nil {
		t.Errorf("write after the room is back: %v", err)
	}

	hung := made(t)(c.HangDisk("gw1"))
	wrote := make(chan error, 1)
	go func() { _, err := synced(t, file, make([]byte, 4096)); wrote <- err }()
	select {
	case err := <-wrote:
		t.Errorf("write to a disk that hangs ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	undo(t, hung)
	if err := <-wrote; err != nil {
		t.Errorf("write when the disk went on: %v", err)
	}

	slow := made(t)(c.SlowDisk("gw1", 200*time.Millisecond, 20*time.Millisecond))
	longest := time.Duration(0)
	for range 4 {
		took, err := synced(t, file, make([]byte, 4096))
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, took)
		time.Sleep(50 * time.Millisecond)
	}
	if longest < 100*time.Millisecond {
		t.Errorf("the longest write to the slow disk took %v", longest)
	}
	undo(t, slow)

	if _, err := c.FillDisk("gw2", 0); err == nil || !strings.Contains(err.Error(), "gw2") {
		t.Errorf("disk of a member that has none: %v", err)
	}
	if devices, err := lab.LoopDevices(l.Dir); err != nil || len(devices) != 1 {
		t.Errorf("loop devices %v, %v", devices, err)
	}
}

// A disk that hangs keeps its writer from ending; Close must free it.
func TestCloseWithHungDisksLeavesNothing(t *testing.T) {
	lab.NeedRoot(t)
	l, err := lab.New(lab.Options{Gateways: 2, Witnesses: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.NewCluster(lab.ClusterOptions{
		Binary: self, Env: []string{memberMark + "=1"},
		Disks: map[string]int64{"gw1": 32 << 20, "gw2": 32 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	made(t)(c.HangDisk("gw1"))
	made(t)(c.SlowDisk("gw2", time.Second, time.Millisecond))
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory of the lab: %v", err)
	}
	eventually(t, "loop devices are free", func() bool {
		devices, err := lab.LoopDevices(l.Dir)
		return err == nil && len(devices) == 0
	})
}

func TestDamageToFilesOfMembers(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1})
	c := newCluster(t, l, lab.ClusterOptions{})
	dir := c.DataDir("gw2")
	for name, text := range map[string]string{
		"log/1": "MAGIC one", "log/2": "other", "log.aside-7/1": "MAGIC kept", "snap": "MAGIC two", "id.aside-7": "MAGIC id", "short": "MA",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := c.DataFiles("gw2", "MAGIC")
	if want := []string{filepath.Join(dir, "log/1"), filepath.Join(dir, "snap")}; err != nil || !slices.Equal(files, want) {
		t.Fatalf("files %v, %v, want %v", files, err, want)
	}
	if kept, err := c.Evidence("gw2"); err != nil || !slices.Equal(kept, []string{"id.aside-7", "log.aside-7"}) {
		t.Errorf("evidence %v, %v", kept, err)
	}
	f := made(t)(c.Flip("gw2", files[0], 6))
	if got := readFile(t, files[0]); got == "MAGIC one" || len(got) != 9 || got[:6] != "MAGIC " || got[7:] != "ne" {
		t.Errorf("after the flip: %q", got)
	}
	undo(t, f)
	if got := readFile(t, files[0]); got != "MAGIC one" {
		t.Errorf("after its undo: %q", got)
	}
	if _, err := c.Flip("gw2", files[0], 99); err == nil {
		t.Error("a byte behind the end was changed")
	}
	if _, err := c.Flip("gw2", filepath.Join(c.DataDir("gw1"), "x"), 0); err == nil {
		t.Error("a file of another member was changed")
	}
	if _, err := c.WipeData("gw2"); err == nil || !strings.Contains(err.Error(), "runs") {
		t.Errorf("wipe of a member that runs: %v", err)
	}
	if err := c.Stop("gw2"); err != nil {
		t.Fatal(err)
	}
	made(t)(c.WipeData("gw2"))
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left after the wipe: %v, %v", left, err)
	}
}

func TestMembersComeAndGo(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 3, Witnesses: 1, Clients: 1})
	c := newCluster(t, l, lab.ClusterOptions{Found: []string{"gw1", "gw2", "w1"}})
	config := func(node string) string { return readFile(t, c.ConfigFile(node)) }
	if strings.Contains(config("gw1"), `"gw3"`) || !slices.Equal(c.Names(), []string{"gw1", "gw2", "w1"}) {
		t.Fatalf("founders %v", c.Names())
	}
	for _, node := range []string{"c1", "gw1", "gw9"} {
		if c.Admit(node) == nil {
			t.Errorf("%s was admitted", node)
		}
	}
	if err := c.Admit("gw3"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(config("gw1"), `"gw3"`) || !strings.Contains(config("gw3"), `"gw1"`) {
		t.Error("the new member's file and no other must name all")
	}
	if err := errors.Join(c.WriteConfigs(), c.Start("gw3")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(config("gw1"), `"gw3"`) {
		t.Error("gw1 does not know gw3")
	}
	waitReady(t, c)
	if err := c.Reload(deadline(t)); err == nil || !strings.Contains(err.Error(), "code 4") {
		t.Errorf("reload of stand-ins, which refuse: %v", err)
	}

	if c.Expel("gw3") == nil || c.Reinstall("gw3") == nil {
		t.Error("done to a member that runs")
	}
	if err := c.Stop("gw3"); err != nil {
		t.Fatal(err)
	}
	key := readFile(t, filepath.Join(l.Dir, "gw3", "node.key"))
	if err := os.WriteFile(filepath.Join(c.DataDir("gw3"), "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Reinstall("gw3"); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal([]byte(key), []byte(readFile(t, filepath.Join(l.Dir, "gw3", "node.key")))) {
		t.Error("the reinstalled machine has the old key")
	}
	if _, err := os.Stat(filepath.Join(c.DataDir("gw3"), "old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("old data: %v", err)
	}
	if err := errors.Join(c.Expel("gw3"), c.WriteConfigs()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(config("gw2"), `"gw3"`) {
		t.Error("gw3 is still in the file")
	}
}

func made(t *testing.T) func(*lab.Fault, error) *lab.Fault {
	return func(f *lab.Fault, err error) *lab.Fault {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
}
