// Package vfs is the one door to the disk for everything that must survive a
// power cut.
//
// It is small on purpose: open, read, write, sync, remove, list, lock, and two
// ways to give a file its name, Publish and WriteFile. Both sync the file
// before the rename and the directory after it; nothing else in this program
// renames. A rename that is not followed by a sync of its directory may be
// forgotten, which is the most repeated bug among logs of this kind.
//
// OS is the disk. Mem is a disk in memory that forgets what was not synced, and
// Inject makes any operation fail; with the two, tests cut the power at every
// step and break every step.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// SectorBytes is what a disk writes at once: after a power cut each sector
// holds its old bytes or its new ones.
const SectorBytes = 512

var (
	// ErrLocked means that another process, or another Lock of this one, holds
	// the lock.
	ErrLocked = errors.New("locked by another process")
	// ErrTooLarge means that a file is longer than the limit of its reader.
	ErrTooLarge = errors.New("file is larger than its limit")
	// ErrAcross means a Publish from one directory to another. One directory
	// sync could not make that durable, so it is refused.
	ErrAcross = errors.New("publish across directories")
)

// File is an open file. Its methods may be called from several goroutines.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes the content and the length durable (fdatasync). After an
	// error nothing is known about what the disk holds, and a second Sync may
	// wrongly say that all is well: the caller must give up the file.
	Sync() error
	// WriteSync is WriteAt of all of p and Sync of these bytes, in one step
	// where the system has one that is quicker. Everything else that was
	// written to the file must have been synced before. After an error the
	// same holds as after one of Sync.
	WriteSync(p []byte, off int64) error
	// Reload is Sync, after which the cached content is dropped where the
	// system allows, so that the next read shows what the disk holds. After a
	// failed sync of an earlier process the cache may hold more.
	Reload() error
	// Size returns the length in bytes.
	Size() (int64, error)
	// Truncate sets the length in bytes; what is added reads as zero.
	Truncate(size int64) error
}

// Info is what Stat tells.
type Info struct {
	Size int64 // bytes
	Dir  bool
}

// FS is a file system. Names are paths with slashes. Errors wrap fs.ErrNotExist,
// fs.ErrExist and the system's error numbers.
type FS interface {
	// OpenFile opens or creates a file; flag is that of os.OpenFile, O_APPEND
	// is refused. The name of a new file is durable only after SyncDir.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Remove removes a file or an empty directory. Durable after SyncDir.
	Remove(name string) error
	// MkdirAll creates a directory and its parents, and syncs the parent of
	// each, so they stay.
	MkdirAll(dir string, perm fs.FileMode) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// Stat describes a file or directory.
	Stat(name string) (Info, error)
	// Publish gives a file or directory its final name, replacing a file of
	// that name, and syncs the directory that holds both. The content must
	// have been synced before.
	Publish(tmp, final string) error
	// WriteFile replaces a file by data at once and durably: after a power cut
	// it holds the old content or the new. perm ignores the umask.
	WriteFile(name string, data []byte, perm fs.FileMode) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock on a file, creating it, and holds it until
	// Close or the end of the process. It does not wait: a lock that is taken
	// is ErrLocked.
	Lock(name string) (io.Closer, error)
}

// ReadFile returns the content of a file of at most limit bytes, or ErrTooLarge.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	info, err := fsys.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if info.Dir {
		return nil, fmt.Errorf("read %s: is a directory", name)
	}
	if info.Size > limit {
		return nil, fmt.Errorf("read %s: %w: %d bytes, limit %d", name, ErrTooLarge, info.Size, limit)
	}
	f, err := fsys.OpenFile(name, rdonly, 0)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	data := make([]byte, info.Size)
	_, err = io.ReadFull(io.NewSectionReader(f, 0, info.Size), data)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// Exists tells whether name is there.
func Exists(fsys FS, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
