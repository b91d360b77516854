package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A member whose name is in ClusterOptions.Disks has its data directory on a
// file system of its own: ext4 in a file of the lab's directory, mounted
// through a loop device. It can be filled and frozen without touching anything
// else of this machine.

const (
	minDisk   = 16 << 20 // bytes; below it ext4 has hardly room for its journal
	diskLimit = 20 * time.Second
)

func (m *member) mount() string  { return filepath.Join(m.dir, "disk") }
func (m *member) image() string  { return filepath.Join(m.dir, "disk.img") }
func (m *member) filler() string { return filepath.Join(m.mount(), "filler") }

// mountDisk makes and mounts the file system of a member. The loop device goes
// with the last use of the mount.
func (c *Cluster) mountDisk(m *member) error {
	if m.disk < minDisk {
		return fmt.Errorf("make disk of %d bytes: at least %d", m.disk, minDisk)
	}
	if err := os.MkdirAll(m.mount(), 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	file, err := os.OpenFile(m.image(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make disk image: %w", err)
	}
	if err := errors.Join(file.Truncate(m.disk), file.Close()); err != nil {
		return fmt.Errorf("make disk image: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
	defer cancel()
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", m.image()}, // no blocks kept for root: full is full
		{"mount", "-t", "ext4", "-o", "loop,noatime", m.image(), m.mount()},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("run %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// diskOf returns a member that has a disk of its own.
func (c *Cluster) diskOf(node string) (*member, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	if m.disk == 0 {
		return nil, fmt.Errorf("find disk of %s: the cluster was made without one", node)
	}
	return m, nil
}

// Room returns how many bytes can still be written to a member's disk.
func (c *Cluster) Room(node string) (int64, error) {
	m, err := c.diskOf(node)
	if err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.mount(), &st); err != nil {
		return 0, fmt.Errorf("ask room of the disk of %s: %w", node, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// FillDisk takes all room of a member's disk but about leave bytes, at once.
// Undo gives it back.
func (c *Cluster) FillDisk(node string, leave int64) (*Fault, error) {
	m, err := c.diskOf(node)
	if err != nil {
		return nil, err
	}
	f := c.fault("fill disk of "+node, func() error { return os.Remove(m.filler()) })
	file, err := os.OpenFile(m.filler(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("fill disk: %w", err)
	}
	defer file.Close()
	size := int64(0)
	// What one size no longer finds, a smaller one may: metadata takes room too.
	for step := int64(4 << 20); step >= 4096; step /= 4 {
		for {
			room, err := c.Room(node)
			if err != nil {
				return nil, err
			}
			if room-step < leave {
				break
			}
			err = unix.Fallocate(int(file.Fd()), 0, size, step)
			if errors.Is(err, unix.ENOSPC) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("fill disk of %s: %w", node, err)
			}
			size += step
		}
	}
	return f, nil
}

// freezer holds a mount while its file system is frozen.
type freezer struct {
	dir *os.File
}

func openFreezer(mount string) (*freezer, error) {
	dir, err := os.Open(mount)
	if err != nil {
		return nil, fmt.Errorf("open mount: %w", err)
	}
	return &freezer{dir}, nil
}

// Request codes of ioctl_fsfreeze(2), which x/sys does not have.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (f *freezer) freeze() error { return unix.IoctlSetInt(int(f.dir.Fd()), fiFreeze, 0) }

// thaw lets a frozen file system go on; one that is not frozen is left alone.
func (f *freezer) thaw() error {
	err := unix.IoctlSetInt(int(f.dir.Fd()), fiThaw, 0)
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// HangDisk makes every write to a member's disk wait, in a sleep that no
// signal ends, as a disk does that does not answer. Reads of what is cached
// work. Undo lets the disk go on.
func (c *Cluster) HangDisk(node string) (*Fault, error) {
	m, err := c.diskOf(node)
	if err != nil {
		return nil, err
	}
	z, err := openFreezer(m.mount())
	if err != nil {
		return nil, err
	}
	f := c.fault("hang disk of "+node, func() error { return errors.Join(z.thaw(), z.dir.Close()) })
	if err := z.freeze(); err != nil {
		return nil, errors.Join(fmt.Errorf("freeze disk of %s: %w", node, err), z.dir.Close())
	}
	c.lab.undoAtClose(f)
	return f, nil
}

// SlowDisk makes a member's disk stand still for stall, again and again, with
// flow in between: a write that comes at a bad moment takes up to stall. Undo
// ends it.
func (c *Cluster) SlowDisk(node string, stall, flow time.Duration) (*Fault, error) {
	m, err := c.diskOf(node)
	if err != nil {
		return nil, err
	}
	z, err := openFreezer(m.mount())
	if err != nil {
		return nil, err
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	f := c.fault(fmt.Sprintf("slow disk of %s (%v)", node, stall), func() error {
		close(stop)
		return errors.Join(<-done, z.dir.Close())
	})
	go func() { done <- z.stutter(stop, stall, flow) }()
	c.lab.undoAtClose(f)
	return f, nil
}

func (l *Lab) undoAtClose(f *Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks = append(l.disks, f)
}

// stutter freezes and thaws until stop closes.
func (f *freezer) stutter(stop <-chan struct{}, stall, flow time.Duration) error {
	wait := func(d time.Duration) bool {
		select {
		case <-stop:
			return false
		case <-time.After(d):
			return true
		}
	}
	for {
		if err := f.freeze(); err != nil {
			return fmt.Errorf("freeze disk: %w", err)
		}
		more := wait(stall)
		if err := f.thaw(); err != nil {
			return fmt.Errorf("thaw disk: %w", err)
		}
		if !more || !wait(flow) {
			return nil
		}
	}
}

// thawUnder thaws every ext4 below dir: a process that waits for a frozen one
// cannot be killed. The best that can be done; what stays frozen shows when
// its processes do not end.
func thawUnder(dir string) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 10 || !strings.HasPrefix(f[4], dir+"/") || !strings.Contains(line, " - ext4 ") {
			continue
		}
		if z, err := openFreezer(f[4]); err == nil {
			_ = z.thaw()
			z.dir.Close()
		}
	}
}

// LoopDevices returns the loop devices whose file lies below dir. The kernel
// frees those of an unmounted disk by itself.
func LoopDevices(dir string) ([]string, error) {
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var found []string
	for _, d := range devices {
		raw, err := os.ReadFile(d)
		if err != nil {
			continue // freed in between
		}
		name, err := strconv.Unquote(`"` + strings.TrimSpace(string(raw)) + `"`)
		if err == nil && strings.HasPrefix(name, dir+"/") {
			found = append(found, filepath.Base(filepath.Dir(filepath.Dir(d))))
		}
	}
	return found, nil
}
