package vfs

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Mem is a file system in memory with a disk below it. What the program sees is
// in memory; what was synced is on the disk; Crash leaves the disk, and of the
// rest what CrashOptions say. A Publish of a file that was never synced gives
// an empty file after a crash, as it does on ext4.
type Mem struct {
	mu       sync.Mutex
	root     *memNode // of absolute and relative names
	life     *int     // handles and locks of an older life are dead
	capacity int64    // bytes, 0 for no bound
	used     int64    // bytes of the files that have a name or a handle
}

// memNode is a file or a directory.
type memNode struct {
	dir bool
	// Of a directory: names as seen, names on disk, and the changes between
	// the two in their order.
	names, durable map[string]*memNode
	pending        []nameChange
	// Of a file.
	data     memData
	handles  int
	unlinked bool
	locked   *int // the life that holds the lock
}

// nameChange is one link, unlink or rename; a rename is one change, since
// journaling file systems keep it whole.
type nameChange struct {
	unlink, link string
	node         *memNode
}

func newMemDir() *memNode {
	return &memNode{dir: true, names: map[string]*memNode{}, durable: map[string]*memNode{}}
}

// NewMem returns an empty file system; "/" and "." are there.
func NewMem() *Mem { return &Mem{root: newMemDir(), life: new(int)} }

var _ FS = (*Mem)(nil)

// lookup returns the directory that holds name, the last part of name, and the
// node, nil where there is none. The caller holds mu.
func (m *Mem) lookup(op, name string) (dir *memNode, base string, node *memNode, err error) {
	dir, node = nil, m.root
	for part := range strings.SplitSeq(filepath.Clean(name), string(filepath.Separator)) {
		if part == "" || part == "." {
			continue
		}
		if node == nil {
			return nil, "", nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		if !node.dir {
			return nil, "", nil, &fs.PathError{Op: op, Path: name, Err: unix.ENOTDIR}
		}
		dir, base = node, part
		node = node.names[part]
	}
	return dir, base, node, nil
}

// find is lookup of something that must exist.
func (m *Mem) find(op, name string) (*memNode, error) {
	_, _, node, err := m.lookup(op, name)
	if err == nil && node == nil {
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return node, err
}

func (d *memNode) change(c nameChange) {
	d.pending = append(d.pending, c)
	c.apply(d.names)
}

func (c nameChange) apply(names map[string]*memNode) {
	if c.unlink != "" {
		delete(names, c.unlink)
	}
	if c.link != "" {
		names[c.link] = c.node
	}
}

// OpenFile implements FS.
func (m *Mem) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, node, err := m.lookup("open", name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case flag&os.O_APPEND != 0:
		return fail(fs.ErrInvalid)
	case node == nil && flag&os.O_CREATE == 0:
		return fail(fs.ErrNotExist)
	case node == nil:
		node = &memNode{}
		dir.change(nameChange{link: base, node: node})
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return fail(fs.ErrExist)
	case node.dir:
		return fail(unix.EISDIR)
	}
	f := &memFile{m: m, node: node, life: m.life, name: name, write: flag&(os.O_WRONLY|os.O_RDWR) != 0}
	node.handles++
	if flag&os.O_TRUNC != 0 {
		m.resize(node, 0)
	}
	return f, nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, node, err := m.lookup("remove", name)
	switch {
	case err != nil:
		return err
	case node == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	case dir == nil || node.dir && len(node.names) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: unix.ENOTEMPTY}
	}
	dir.change(nameChange{unlink: base})
	m.unlinked(node)
	return nil
}

// unlinked notes that a node has lost its name.
func (m *Mem) unlinked(node *memNode) {
	if node.unlinked = true; node.handles == 0 {
		m.used -= node.data.size
	}
}

// resize changes the length of a file, within the capacity.
func (m *Mem) resize(node *memNode, size int64) {
	m.used += size - node.data.size
	node.data.resize(size)
}

// room returns the length that a file may get to when it wants size.
func (m *Mem) room(node *memNode, size int64) int64 {
	if m.capacity == 0 || size <= node.data.size {
		return size
	}
	return min(size, node.data.size+max(0, m.capacity-m.used))
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(name string, _ fs.FileMode) error {
	return mkdirAll(m, name, func(name string) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		dir, base, node, err := m.lookup("mkdir", name)
		if err != nil || node != nil {
			return err
		}
		dir.change(nameChange{link: base, node: newMemDir()})
		return nil
	})
}

// ReadDir implements FS.
func (m *Mem) ReadDir(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if !node.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: unix.ENOTDIR}
	}
	return slices.Sorted(maps.Keys(node.names)), nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.find("stat", name)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: node.data.size, Dir: node.dir}, nil
}

// Publish implements FS.
func (m *Mem) Publish(tmp, final string) error {
	if err := m.rename(tmp, final); err != nil {
		return err
	}
	return m.SyncDir(dirOf(final))
}

func (m *Mem) rename(tmp, final string) error {
	if err := sameDir(tmp, final); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.find("rename", tmp)
	if err != nil {
		return err
	}
	dir, base, old, err := m.lookup("rename", final)
	if err != nil {
		return err
	}
	if old != nil && (old.dir || node.dir) {
		return &fs.PathError{Op: "rename", Path: final, Err: fs.ErrExist}
	}
	dir.change(nameChange{unlink: filepath.Base(tmp), link: base, node: node})
	if old != nil && old != node {
		m.unlinked(old)
	}
	return nil
}

// WriteFile implements FS.
func (m *Mem) WriteFile(name string, data []byte, perm fs.FileMode) error {
	tmp := filepath.Join(dirOf(name), "."+filepath.Base(name)+"0")
	f, err := m.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return m.Publish(tmp, name)
}

// SyncDir implements FS.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.find("syncdir", name)
	if err != nil {
		return err
	}
	if !node.dir {
		return &fs.PathError{Op: "syncdir", Path: name, Err: unix.ENOTDIR}
	}
	for _, c := range node.pending {
		c.apply(node.durable)
	}
	clear(node.pending)
	node.pending = node.pending[:0]
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	mf := f.(*memFile)
	if mf.node.locked == m.life {
		mf.close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: ErrLocked}
	}
	mf.node.locked, mf.locker = m.life, true
	return f, nil
}

func dirOf(name string) string { return filepath.Dir(filepath.Clean(name)) }
