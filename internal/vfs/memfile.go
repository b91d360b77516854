package vfs

import (
	"io"
	"io/fs"

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
	n := min(int64(len(p)), max(0, f.node.data.size-off))
	f.node.data.read(p[:n], off)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	end := f.m.room(f.node, off+int64(len(p)))
	n := max(0, end-off)
	if n > 0 && end > f.node.data.size {
		f.m.resize(f.node, end)
	}
	f.node.data.write(p[:n], off)
	if n < int64(len(p)) {
		return int(n), &fs.PathError{Op: "write", Path: f.name, Err: unix.ENOSPC}
	}
	return int(n), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("close", false); err != nil {
		return err
	}
	f.close()
	return nil
}

// close is Close of a handle that works. The caller holds mu.
func (f *memFile) close() {
	f.closed = true
	if f.locker {
		f.node.locked = nil
	}
	if f.node.handles--; f.node.handles == 0 && f.node.unlinked {
		f.m.used -= f.node.data.size
	}
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("sync", false); err != nil {
		return err
	}
	f.node.data.sync()
	return nil
}

func (f *memFile) WriteSync(p []byte, off int64) error { return writeThenSync(f, p, off) }

func (f *memFile) Reload() error {
	if err := f.Sync(); err != nil {
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.used -= f.node.data.size
	f.node.data.reload()
	f.m.used += f.node.data.size
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("size", false); err != nil {
		return 0, err
	}
	return f.node.data.size, nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("truncate", true); err != nil {
		return err
	}
	if f.m.room(f.node, size) < size {
		return &fs.PathError{Op: "truncate", Path: f.name, Err: unix.ENOSPC}
	}
	f.m.resize(f.node, size)
	return nil
}
