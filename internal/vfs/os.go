package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

const rdonly = os.O_RDONLY

// OS is the file system of the host.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if flag&os.O_APPEND != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	// A handle for reading must not write by its second one.
	return &osFile{File: f, direct: direct{none: flag&(os.O_WRONLY|os.O_RDWR) == 0}}, nil
}

func (osFS) Remove(name string) error { return os.Remove(name) }

func (o osFS) MkdirAll(dir string, perm fs.FileMode) error {
	return mkdirAll(o, dir, func(dir string) error { return os.Mkdir(dir, perm) })
}

func (osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) Stat(name string) (Info, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: info.Size(), Dir: info.IsDir()}, nil
}

func (o osFS) Publish(tmp, final string) error {
	if err := sameDir(tmp, final); err != nil {
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	return o.SyncDir(filepath.Dir(final))
}

// WriteFile uses renameio, which syncs the file and renames it, but leaves the
// directory to us; and which would put its temporary file into TMPDIR, were it
// on the same mount.
func (o osFS) WriteFile(name string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(name)
	err := renameio.WriteFile(name, data, perm,
		renameio.WithTempDir(dir), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	return o.SyncDir(dir)
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: name, Err: err}, f.Close())
	}
	return f, nil // closing the descriptor ends the lock
}

type osFile struct {
	*os.File
	direct direct
}

// Close closes the file with what WriteSync opened.
func (f *osFile) Close() error { return errors.Join(f.direct.close(), f.File.Close()) }

func (f *osFile) Sync() error {
	if err := f.control(unix.Fdatasync); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Reload() error {
	if err := f.Sync(); err != nil {
		return err
	}
	err := f.control(func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return &fs.PathError{Op: "fadvise", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// control calls fn with the descriptor, which stays open meanwhile.
func (f *osFile) control(fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var called error
	err = conn.Control(func(fd uintptr) { called = retry(func() error { return fn(int(fd)) }) })
	return errors.Join(err, called)
}

// retry calls fn again as long as a signal interrupts it.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sameDir returns ErrAcross unless both names are in one directory.
func sameDir(tmp, final string) error {
	if filepath.Dir(tmp) != filepath.Dir(final) {
		return fmt.Errorf("%w: %s to %s", ErrAcross, tmp, final)
	}
	return nil
}

// mkdirAll makes dir and its missing parents with mkdir and syncs the parent of
// each. The parent of dir is synced even when dir is there: a process that died
// may have made it without.
func mkdirAll(fsys FS, dir string, mkdir func(string) error) error {
	dir = filepath.Clean(dir)
	info, err := fsys.Stat(dir)
	switch {
	case err == nil && !info.Dir:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return nil
	}
	if err != nil {
		if err := mkdirAll(fsys, parent, mkdir); err != nil {
			return err
		}
		if err := mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fsys.SyncDir(parent)
}
