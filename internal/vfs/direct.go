package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// direct is a second handle of a file, for WriteSync: O_DSYNC makes one system
// call of write and sync, and O_DIRECT leaves the page cache out. Of a write of
// 4 KiB into blocks that exist the two save a tenth (docs/benchmarks.md).
// Where a file system has no O_DIRECT, or a write does not suit it, the write
// goes the long way; the bytes in the end are the same.
type direct struct {
	mu     sync.Mutex
	file   *os.File
	closed bool
	none   bool // the file system refuses such a handle, or such writes
}

// DirectBytes is what the offset, the length and the place in memory of a
// WriteSync must be multiples of to go the short way. Logical blocks of disks
// are 512 or 4096 bytes.
const DirectBytes = 4096

// open returns the handle, nil where there is none. The file is opened by its
// descriptor: its name may be another by now.
func (d *direct) open(f *os.File) *os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file != nil || d.none || d.closed {
		return d.file
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY|unix.O_DSYNC|unix.O_DIRECT, 0)
	if err != nil {
		d.none = true
		return nil
	}
	d.file = file
	return file
}

// refuse ends the short way for this file.
func (d *direct) refuse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.none = true
	if d.file != nil {
		_ = d.file.Close() // everything that it wrote is synced
		d.file = nil
	}
}

func (d *direct) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	d.file = nil
	return err
}

func (f *osFile) WriteSync(p []byte, off int64) error {
	if off%DirectBytes != 0 || len(p)%DirectBytes != 0 {
		return writeThenSync(f, p, off)
	}
	file := f.direct.open(f.File)
	if file == nil {
		return writeThenSync(f, p, off)
	}
	n, err := file.WriteAt(p, off)
	if n == 0 && errors.Is(err, unix.EINVAL) {
		// Nothing was written: the kernel looks at the alignment first.
		f.direct.refuse()
		return writeThenSync(f, p, off)
	}
	if err != nil {
		return &fs.PathError{Op: "write and sync", Path: f.Name(), Err: err}
	}
	return nil
}

// writeThenSync is the long way.
func writeThenSync(f File, p []byte, off int64) error {
	if _, err := f.WriteAt(p, off); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}
