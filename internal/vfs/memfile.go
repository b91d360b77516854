package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"
)

// memFile is a handle of a file of Mem.
type memFile struct {
	m      *Mem
	node   *memNode
	life   *int // that of the file system when it was opened
	name   string
	write  bool
	locker bool // Close ends the lock
	closed bool
}

// check returns an error for a handle that no longer works. The caller holds mu.
func (f *memFile) check(op string, write bool) error {
	if f.closed || f.life != f.m.life {
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	}
	if write && !f.write {
		return &fs.PathError{Op: op, Path: f.name, Err: unix.EBADF}
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	end := off + int64(len(p))
	if end > int64(len(f.node.data)) {
		f.node.resize(end)
	}
	copy(f.node.data[off:], p)
	f.node.touch(off, end)
	return len(p), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("close", false); err != nil {
		return err
	}
	f.closed = true
	if f.locker {
		f.node.locked = false
	}
	return nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("sync", false); err != nil {
		return err
	}
	f.node.sync()
	return nil
}

func (f *memFile) WriteSync(p []byte, off int64) error { return writeThenSync(f, p, off) }

func (f *memFile) Reload() error { return f.Sync() }

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("size", false); err != nil {
		return 0, err
	}
	return int64(len(f.node.data)), nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("truncate", true); err != nil {
		return err
	}
	f.node.resize(size)
	return nil
}

// touch marks the sectors of [from, to) as not synced.
func (n *memNode) touch(from, to int64) {
	for s := from / SectorBytes; s*SectorBytes < to; s++ {
		n.dirty[s] = struct{}{}
	}
}

func (n *memNode) resize(size int64) {
	old := int64(len(n.data))
	if size <= old {
		clear(n.data[size:]) // what is added later reads as zero
		n.data = n.data[:size]
	} else {
		n.data = slices.Grow(n.data, int(size-old))[:size]
	}
	n.touch(min(old, size), max(old, size))
}

func (n *memNode) sync() {
	n.disk = fit(n.disk, len(n.data))
	for s := range n.dirty {
		if from := s * SectorBytes; from < int64(len(n.data)) {
			to := min(from+SectorBytes, int64(len(n.data)))
			copy(n.disk[from:to], n.data[from:to])
		}
	}
	clear(n.dirty)
}

// fit returns b with length n, zero where it grew.
func fit(b []byte, n int) []byte {
	if n > len(b) {
		return append(b, make([]byte, n-len(b))...)
	}
	return b[:n]
}

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
	m.life = new(int)
}

// CrashClone returns the file system as it would be after Crash, and leaves m as
// it is.
func (m *Mem) CrashClone(o CrashOptions) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Mem{root: m.root.crash(o, map[*memNode]*memNode{}), life: new(int)}
}

// crash returns what is left of n. done keeps a file with two names one file.
func (n *memNode) crash(o CrashOptions, done map[*memNode]*memNode) *memNode {
	if left := done[n]; left != nil {
		return left
	}
	if !n.dir {
		left := &memNode{dirty: map[int64]struct{}{}, disk: n.crashData(o)}
		left.data = slices.Clone(left.disk)
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

func (n *memNode) crashData(o CrashOptions) []byte {
	size := len(n.disk)
	if len(n.data) != size && o.hit(o.Sectors) {
		size = len(n.data)
	}
	disk := fit(slices.Clone(n.disk), size)
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		from := s * SectorBytes
		if !o.hit(o.Sectors) || from >= int64(min(size, len(n.data))) {
			continue
		}
		to := min(from+SectorBytes, int64(size), int64(len(n.data)))
		if o.hit(o.Tear) {
			to = from + o.Rand.Int64N(to-from)
		}
		copy(disk[from:to], n.data[from:to])
	}
	return disk
}
