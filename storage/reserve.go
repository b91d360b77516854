package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// fileReserve holds room on the disk that nothing needs, for when it is full.
const (
	fileReserve = "reserve"
	maxReserve  = 1 << 30
)

// reserve guards the reserve file: it is made and released from different
// goroutines.
type reserve struct {
	mu    sync.Mutex
	known bool // held was looked up
	held  bool
}

// Reserve makes the reserve file, of so many bytes that are really written, if
// it is not there. When there is no room the error wraps ENOSPC and nothing is
// left behind.
func (d *Data) Reserve(bytes int64) error {
	if bytes <= 0 || bytes > maxReserve {
		return fmt.Errorf("make reserve file: %d bytes, 1 to %d allowed", bytes, maxReserve)
	}
	d.reserve.mu.Lock()
	defer d.reserve.mu.Unlock()
	name := d.path(fileReserve)
	info, err := d.fs.Stat(name)
	if err == nil && info.Size == bytes {
		d.reserve.known, d.reserve.held = true, true
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make reserve file: %w", err)
	}
	tmp := name + writingSuffix
	if err := writeZeros(d.fs, tmp, bytes); err != nil {
		_ = d.fs.Remove(tmp) // the next try begins anew in any case
		return fmt.Errorf("make reserve file: %w", err)
	}
	if err := d.fs.Publish(tmp, name); err != nil {
		return fmt.Errorf("make reserve file: %w", err)
	}
	d.reserve.known, d.reserve.held = true, true
	return nil
}

func writeZeros(fsys vfs.FS, name string, size int64) error {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	zeros := make([]byte, min(size, snapPiece))
	for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
		if _, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.Close())
}

// ReleaseReserve gives the room of the reserve file back, durably.
func (d *Data) ReleaseReserve() error {
	d.reserve.mu.Lock()
	defer d.reserve.mu.Unlock()
	d.reserve.known, d.reserve.held = true, false
	err := d.fs.Remove(d.path(fileReserve))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.fs.SyncDir(d.dir)
	}
	if err != nil {
		return fmt.Errorf("release reserve file: %w", err)
	}
	return nil
}

// ReserveHeld tells whether the reserve file is there. It looks at the disk the
// first time only.
func (d *Data) ReserveHeld() bool {
	d.reserve.mu.Lock()
	defer d.reserve.mu.Unlock()
	if !d.reserve.known {
		ok, err := vfs.Exists(d.fs, d.path(fileReserve))
		d.reserve.known, d.reserve.held = err == nil, ok
	}
	return d.reserve.held
}
