package vfs

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// CrashOptions say what of the things not synced a power cut leaves on disk. The
// zero value leaves nothing of them.
type CrashOptions struct {
	// Rand draws; it must be set when a field below is not zero.
	Rand *rand.Rand
	// Sectors is the chance, 0 to 1, that a sector not synced is on disk all
	// the same, each sector for itself: disks write in any order.
	Sectors float64
	// Names is the chance that a change of a directory not synced is on disk,
	// each for itself.
	Names float64
	// Tear is the chance that a sector which is on disk has only its first
	// bytes new: a disk that does not even keep a sector whole.
	Tear float64
}

func (o CrashOptions) hit(chance float64) bool { return chance > 0 && o.Rand.Float64() < chance }

// Crash cuts the power: only the disk is left. Open files and locks are gone.
func (m *Mem) Crash(o CrashOptions) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.root = m.root.crash(o, map[*memNode]*memNode{})
	m.end()
}

// CrashClone returns the file system as it would be after Crash, and leaves m as
// it is.
func (m *Mem) CrashClone(o CrashOptions) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := &Mem{root: m.root.crash(o, map[*memNode]*memNode{}), capacity: m.capacity}
	left.end()
	return left
}

// crash returns what is left of n. done keeps a file with two names one file.
func (n *memNode) crash(o CrashOptions, done map[*memNode]*memNode) *memNode {
	if left := done[n]; left != nil {
		return left
	}
	if !n.dir {
		left := &memNode{data: n.data.crash(o)}
		done[n] = left
		return left
	}
	left := newMemDir()
	done[n] = left
	names := maps.Clone(n.durable)
	for _, c := range n.pending {
		if o.hit(o.Names) {
			c.apply(names)
		}
	}
	// In sorted order, so that one seed gives one outcome.
	for _, name := range slices.Sorted(maps.Keys(names)) {
		left.durable[name] = names[name].crash(o, done)
	}
	left.names = maps.Clone(left.durable)
	return left
}

// Exit is the end of the process that has files open: its handles are dead and
// its locks are free. What it wrote is there, synced or not.
func (m *Mem) Exit() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
}

// end begins a new life, and counts the bytes in use anew.
func (m *Mem) end() {
	m.life, m.used = new(int), 0
	m.walk("/", m.root, func(_ string, n *memNode) {
		n.handles = 0
		m.used += n.data.size
	})
}

// walk visits all files in the order of their names.
func (m *Mem) walk(name string, n *memNode, visit func(name string, n *memNode)) {
	if !n.dir {
		visit(name, n)
		return
	}
	for _, base := range slices.Sorted(maps.Keys(n.names)) {
		m.walk(path.Join(name, base), n.names[base], visit)
	}
}

// Names returns the paths of all files, sorted by directory.
func (m *Mem) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	m.walk("/", m.root, func(name string, _ *memNode) { names = append(names, name) })
	return names
}

// SetCapacity bounds the bytes of all files, 0 for no bound: a write or Truncate
// that would make a file grow beyond is ENOSPC, and of the write what fits is
// done. Files that are removed and closed give their room back. A bound below
// what is used takes nothing away.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Used returns the bytes of all files.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// Flip changes the bits of mask in one byte of a file, as seen and on disk: what
// a medium does to what is at rest. Errors: that there is no such byte.
func (m *Mem) Flip(name string, offset int64, mask byte) error {
	return m.file("flip", name, func(n *memNode) error {
		if offset < 0 || offset >= n.data.size {
			return unix.EINVAL
		}
		n.data.flip(offset, mask)
		return nil
	})
}

// Forget is what a sync that failed does to a file on Linux: what was not synced
// can still be read, but counts as clean, so that no later sync writes it; after
// a Reload it is gone. A page of 4 KiB that is written to again is written whole.
func (m *Mem) Forget(name string) error {
	return m.file("forget", name, func(n *memNode) error {
		n.data.forget()
		return nil
	})
}

func (m *Mem) file(op, name string, do func(*memNode) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(op, name)
	if err == nil && n.dir {
		err = unix.EISDIR
	}
	if err == nil {
		err = do(n)
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Wipe removes all that is below a directory, on disk too.
func (m *Mem) Wipe(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("wipe", dir)
	if err != nil {
		return err
	}
	if !n.dir {
		return &fs.PathError{Op: "wipe", Path: dir, Err: unix.ENOTDIR}
	}
	m.walk(dir, n, func(_ string, file *memNode) { m.unlinked(file) })
	clear(n.names)
	clear(n.durable)
	n.pending = nil
	return nil
}
