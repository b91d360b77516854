package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
)

// Kind is a kind of operation.
type Kind uint8

// The kinds of operation that an injector sees.
const (
	OpOpen Kind = iota + 1
	OpRead
	OpWrite
	OpSync
	OpReload
	OpTruncate
	OpRemove
	OpMkdir
	OpReadDir
	OpStat
	OpRename
	OpSyncDir
	OpLock
)

var kindNames = [...]string{
	OpOpen: "open", OpRead: "read", OpWrite: "write", OpSync: "sync", OpReload: "reload",
	OpTruncate: "truncate", OpRemove: "remove", OpMkdir: "mkdir", OpReadDir: "readdir",
	OpStat: "stat", OpRename: "rename", OpSyncDir: "syncdir", OpLock: "lock",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Changes tells whether the operation changes what is on disk, or what of it is
// durable.
func (k Kind) Changes() bool {
	switch k {
	case OpWrite, OpSync, OpReload, OpTruncate, OpRemove, OpMkdir, OpRename, OpSyncDir:
		return true
	}
	return false
}

// Op is one operation about to be done.
type Op struct {
	Kind   Kind
	Path   string // for a rename the new name
	Offset int64  // of a read or write
	Length int    // of a read or write, bytes
}

func (o Op) String() string {
	return fmt.Sprintf("%v %s [%d+%d]", o.Kind, o.Path, o.Offset, o.Length)
}

// ErrInjected is the error that Nth injects.
var ErrInjected = errors.New("injected error")

// ShortWrite is an error for a write of which only the first N bytes are done.
type ShortWrite struct {
	N   int // bytes
	Err error
}

func (s *ShortWrite) Error() string { return fmt.Sprintf("short write of %d bytes: %v", s.N, s.Err) }

// Unwrap returns the cause.
func (s *ShortWrite) Unwrap() error { return s.Err }

// Nth returns an injector that lets n operations pass for which match is true,
// and fails the one after them, and no other, with err.
func Nth(n int64, err error, match func(Op) bool) func(Op) error {
	var seen atomic.Int64
	return func(op Op) error {
		if match(op) && seen.Add(1) == n+1 {
			return err
		}
		return nil
	}
}

// Inject returns a file system that calls before with each operation, on any
// goroutine, ahead of doing it. An error of before is returned in place of the
// operation. Publish and WriteFile come as the steps that they consist of: the
// rename is not done when it fails, and is done, but not durable, when the
// directory sync fails.
func Inject(fsys FS, before func(Op) error) FS { return &injectFS{fsys, before} }

type injectFS struct {
	fs     FS
	before func(Op) error
}

func (i *injectFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if err := i.before(Op{Kind: OpOpen, Path: name}); err != nil {
		return nil, err
	}
	f, err := i.fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &injectFile{File: f, name: name, before: i.before}, nil
}

func (i *injectFS) Remove(name string) error {
	if err := i.before(Op{Kind: OpRemove, Path: name}); err != nil {
		return err
	}
	return i.fs.Remove(name)
}

func (i *injectFS) MkdirAll(dir string, perm fs.FileMode) error {
	if err := i.before(Op{Kind: OpMkdir, Path: dir}); err != nil {
		return err
	}
	return i.fs.MkdirAll(dir, perm)
}

func (i *injectFS) ReadDir(dir string) ([]string, error) {
	if err := i.before(Op{Kind: OpReadDir, Path: dir}); err != nil {
		return nil, err
	}
	return i.fs.ReadDir(dir)
}

func (i *injectFS) Stat(name string) (Info, error) {
	if err := i.before(Op{Kind: OpStat, Path: name}); err != nil {
		return Info{}, err
	}
	return i.fs.Stat(name)
}

// renamer is a file system that can rename without syncing the directory, so
// that the two steps of Publish can fail one by one.
type renamer interface {
	rename(tmp, final string) error
}

func (i *injectFS) Publish(tmp, final string) error {
	if err := i.before(Op{Kind: OpRename, Path: final}); err != nil {
		return err
	}
	r, ok := i.fs.(renamer)
	if !ok {
		return i.fs.Publish(tmp, final)
	}
	if err := r.rename(tmp, final); err != nil {
		return err
	}
	return i.SyncDir(dirOf(final))
}

func (i *injectFS) WriteFile(name string, data []byte, perm fs.FileMode) error {
	op := Op{Kind: OpWrite, Path: name, Length: len(data)}
	for _, kind := range []Kind{OpWrite, OpSync, OpRename, OpSyncDir} {
		op.Kind = kind
		if err := i.before(op); err != nil {
			return err
		}
	}
	return i.fs.WriteFile(name, data, perm)
}

func (i *injectFS) SyncDir(dir string) error {
	if err := i.before(Op{Kind: OpSyncDir, Path: dir}); err != nil {
		return err
	}
	return i.fs.SyncDir(dir)
}

func (i *injectFS) Lock(name string) (io.Closer, error) {
	if err := i.before(Op{Kind: OpLock, Path: name}); err != nil {
		return nil, err
	}
	return i.fs.Lock(name)
}

type injectFile struct {
	File
	name   string
	before func(Op) error
}

func (f *injectFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.before(Op{Kind: OpRead, Path: f.name, Offset: off, Length: len(p)}); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *injectFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.before(Op{Kind: OpWrite, Path: f.name, Offset: off, Length: len(p)})
	var short *ShortWrite
	if errors.As(err, &short) {
		n, werr := f.File.WriteAt(p[:min(max(short.N, 0), len(p))], off)
		return n, errors.Join(err, werr)
	}
	if err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *injectFile) Sync() error {
	if err := f.before(Op{Kind: OpSync, Path: f.name}); err != nil {
		return err
	}
	return f.File.Sync()
}

// WriteSync comes as the two steps that it stands for.
func (f *injectFile) WriteSync(p []byte, off int64) error { return writeThenSync(f, p, off) }

func (f *injectFile) Reload() error {
	if err := f.before(Op{Kind: OpReload, Path: f.name}); err != nil {
		return err
	}
	return f.File.Reload()
}

func (f *injectFile) Truncate(size int64) error {
	if err := f.before(Op{Kind: OpTruncate, Path: f.name}); err != nil {
		return err
	}
	return f.File.Truncate(size)
}
