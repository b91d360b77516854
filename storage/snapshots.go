package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Names in the directory of snapshots.
const (
	dirSnapshots   = "snap"
	snapshotSuffix = ".snap"
	writingSuffix  = ".tmp"  // being written here
	partSuffix     = ".part" // being received; kept for resuming
)

// Snapshots are the snapshot files of a data directory, for any goroutine.
//
// Which of them counts is decided by the log alone: it holds a record that
// names the snapshot it follows. A file without that record was made by a
// process that died before it, and goes at the next start; a record without its
// file is damage.
type Snapshots struct {
	fs     vfs.FS
	dir    string
	pacing pacing

	mu        sync.Mutex
	cluster   [16]byte
	kept      uint64                  // index of the snapshot that the log follows on disk, 0 for none
	newest    SnapshotMeta            // the log follows it, or it was written since
	files     map[uint64]SnapshotMeta // what may be opened
	receiving bool
	writing   bool
}

func newSnapshots(fsys vfs.FS, dir string) *Snapshots {
	return &Snapshots{fs: fsys, dir: filepath.Join(dir, dirSnapshots), pacing: realTime, files: map[uint64]SnapshotMeta{}}
}

// Snapshots returns the snapshots of this directory. It may be called at any
// time, and what it returns is in order once the log is open.
func (d *Data) Snapshots() *Snapshots { return d.snaps }

// Newest returns the newest snapshot of this node: the one that its log
// follows, or a newer one that was written since. One that was received counts
// once the log follows it.
func (s *Snapshots) Newest() (SnapshotMeta, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest, s.newest.Index != 0
}

func (s *Snapshots) name(index uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%016x%s", index, snapshotSuffix))
}

// parseSnapshotName returns false for a file that is no snapshot.
func parseSnapshotName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, snapshotSuffix)
	if !ok {
		return 0, false
	}
	index, err := strconv.ParseUint(hex, 16, 64)
	return index, err == nil && fmt.Sprintf("%016x", index) == hex
}

// SnapshotFile is an open snapshot, for sending. It stays readable when a newer
// one takes its place. Reads that come in order are checked, block by block; an
// error that wraps wal.ErrCorrupt says that the file is damaged.
type SnapshotFile struct {
	meta SnapshotMeta
	file vfs.File

	mu    sync.Mutex
	check *snapCheck
}

// Open opens the snapshot of an index. One that has given way to a newer one is
// fs.ErrNotExist; one that should be there and is not is a *SnapshotError.
func (s *Snapshots) Open(index uint64) (*SnapshotFile, error) {
	meta, ok := s.file(index)
	if !ok {
		return nil, fmt.Errorf("open snapshot %d: %w", index, fs.ErrNotExist)
	}
	file, err := s.fs.OpenFile(s.name(index), os.O_RDONLY, 0)
	if _, still := s.file(index); still && errors.Is(err, fs.ErrNotExist) {
		err = &SnapshotError{File: s.name(index), Why: "file is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("open snapshot %d: %w", index, err)
	}
	check := newSnapCheck(s.name(index), nil)
	check.sum = nil
	return &SnapshotFile{meta: meta, file: file, check: check}, nil
}

func (s *Snapshots) file(index uint64) (SnapshotMeta, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	meta, ok := s.files[index]
	return meta, ok
}

// Meta says what the file is of.
func (f *SnapshotFile) Meta() SnapshotMeta { return f.meta }

// Size returns the length of the file in bytes.
func (f *SnapshotFile) Size() int64 { return f.meta.Size }

// Close closes the file.
func (f *SnapshotFile) Close() error { return f.file.Close() }

// ReadAt implements io.ReaderAt.
func (f *SnapshotFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.file.ReadAt(p, offset)
	f.mu.Lock()
	defer f.mu.Unlock()
	if vfs.Unreadable(err) {
		return n, fmt.Errorf("%w: %w", f.check.damaged("cannot be read"), err)
	}
	if skip := f.check.pos() - offset; skip >= 0 && skip < int64(n) {
		if _, bad := f.check.Write(p[skip:n]); bad != nil {
			return 0, bad
		}
	}
	return n, err
}

// load reads the snapshot that the log says it follows.
func (s *Snapshots) load(index, term uint64, hash [32]byte) (*State, SnapshotMeta, error) {
	name := s.name(index)
	file, err := s.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, SnapshotMeta{}, err
	}
	var state *State
	var meta SnapshotMeta
	if err = file.Reload(); err == nil {
		state, meta, err = decodeSnapshot(context.Background(), name, file)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, SnapshotMeta{}, err
	}
	if meta.Index != index || meta.Term != term || meta.Hash != hash || meta.Cluster != s.clusterID() {
		return nil, SnapshotMeta{}, &SnapshotError{File: name, Why: fmt.Sprintf(
			"it is of index %d term %d hash %x cluster %x, the log follows index %d term %d hash %x",
			meta.Index, meta.Term, meta.Hash, meta.Cluster, index, term, hash)}
	}
	return state, meta, nil
}

func (s *Snapshots) setCluster(id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster = id
}

// any tells whether there is a snapshot, whole or in part.
func (s *Snapshots) any() (bool, error) {
	names, err := s.list(func(string) bool { return true })
	if err != nil {
		return false, err
	}
	return len(names) > 0, nil
}

func (s *Snapshots) clusterID() [16]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster
}

// decodeSnapshot reads a whole file and checks everything in it.
func decodeSnapshot(ctx context.Context, name string, file io.ReaderAt) (*State, SnapshotMeta, error) {
	r := newSnapReader(name, file, func(int) error { return ctx.Err() })
	state, err := DecodeState(r)
	if err == nil {
		var n int
		n, err = r.Read(make([]byte, 1))
		switch {
		case n > 0:
			err = errors.New("bytes are left over")
		case errors.Is(err, io.EOF):
			err = nil
		}
	}
	meta := r.check.meta
	switch {
	case r.failed != nil:
		return nil, SnapshotMeta{}, r.failed
	case err != nil:
		// Every checksum so far is right, and still the bytes are no state.
		return nil, SnapshotMeta{}, &SnapshotError{File: name, Offset: r.check.good, Why: err.Error()}
	case !stateIs(state, &meta):
		return nil, SnapshotMeta{}, &SnapshotError{File: name, Why: "the state in it is not that of its header"}
	}
	return state, meta, nil
}

func stateIs(s *State, m *SnapshotMeta) bool {
	index, term := s.Applied()
	conf, _ := s.Conf()
	return m.sameState(&SnapshotMeta{Cluster: s.Cluster(), Index: index, Term: term, Conf: conf, Hash: s.Hash()})
}

// begin takes the snapshot that the log follows, its zero value for none, and
// removes files that lead nowhere, but for what was received in part.
func (s *Snapshots) begin(meta SnapshotMeta) error {
	drop, err := s.list(func(name string) bool {
		index, ok := parseSnapshotName(name)
		return ok && index != meta.Index || strings.HasSuffix(name, writingSuffix) || oldPart(name, meta.Index)
	})
	if err != nil {
		return err
	}
	if err := s.remove(drop); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest, s.kept = meta, meta.Index
	if meta.Index != 0 {
		s.files[meta.Index] = meta
	}
	return nil
}

// list returns the names for which want is true.
func (s *Snapshots) list(want func(name string) bool) ([]string, error) {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !want(name) }), nil
}

// partName is that of a file that is being received. The sum is part of it: a
// part never goes on as another file.
func partName(m *SnapshotMeta) string { return fmt.Sprintf("%016x-%x%s", m.Index, m.Sum, partSuffix) }

// oldPart tells whether a part is of no use to a log that has come to index.
func oldPart(name string, index uint64) bool {
	of, _, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(of, 16, 64)
	return strings.HasSuffix(name, partSuffix) && (err != nil || n <= index)
}

func (s *Snapshots) remove(names []string) error {
	for _, name := range names {
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove snapshot: %w", err)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return fmt.Errorf("sync snapshot directory: %w", err)
	}
	return nil
}

// published tells whether the file of a snapshot has its name.
func (s *Snapshots) published(meta *SnapshotMeta) bool {
	m, ok := s.file(meta.Index)
	return ok && m.sameState(meta)
}

// adopt notes that the log follows a snapshot.
func (s *Snapshots) adopt(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.Index <= index {
		s.newest = s.files[index]
	}
}

// durable notes that the log follows a snapshot on disk, and removes what is
// older.
func (s *Snapshots) durable(index uint64) error {
	s.mu.Lock()
	s.kept = max(s.kept, index)
	s.mu.Unlock()
	return s.dropOld()
}

// dropOld removes snapshots older than the one that the log follows on disk, and
// parts of such, unless one is being received: that one sees to itself.
func (s *Snapshots) dropOld() error {
	s.mu.Lock()
	var drop []string
	for index := range s.files {
		if index < s.kept {
			drop = append(drop, filepath.Base(s.name(index)))
			delete(s.files, index)
		}
	}
	slices.Sort(drop)
	kept, receiving := s.kept, s.receiving
	s.mu.Unlock()
	if !receiving {
		parts, err := s.list(func(name string) bool { return oldPart(name, kept) })
		if err != nil {
			return err
		}
		drop = append(drop, parts...)
	}
	return s.remove(drop)
}
