package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// Names in a data directory.
const (
	fileLock    = "lock"
	fileRaftID  = "raft-id"
	filePromise = "promise"
	fileFirst   = "first-config"
	// fileFounding stands from before the first configuration is written until
	// its log is created. Without it a missing log is damage: a raft id that
	// others know must not come back with a log that shrank (F2).
	fileFounding = "founding"
	dirLog       = "wal"
)

// AsideMark is part of every name that SetAside gives.
const AsideMark = ".aside-"

// ErrInUse means that another worker has the data directory.
var ErrInUse = errors.New("another holdfast worker uses it")

// DamageError means that the files of a data directory contradict each other
// or cannot be read. Nothing is guessed: the operator sees the hint, and the
// node comes back under a new raft id once the damage is set aside (F2).
type DamageError struct {
	Dir  string
	What string // what is wrong
	Hint string // what to do
	Err  error  // cause, may be nil
}

// Error says what is wrong and what to do about it.
func (e *DamageError) Error() string {
	msg := fmt.Sprintf("data directory %s: %s", e.Dir, e.What)
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg + " (" + e.Hint + ")"
}

// Unwrap returns the cause.
func (e *DamageError) Unwrap() error { return e.Err }

const asideHint = "set the raft files aside; the node then rejoins as a new one and is filled by the others"

// Stage says how far a data directory has come.
type Stage uint8

// The stages. Founded holds a first configuration and a log with no entry of
// its own: the node still counts as empty and repeats the founding (F1).
const (
	Empty   Stage = 1
	Founded Stage = 2
	Used    Stage = 3
)

// String returns the name shown in status.
func (s Stage) String() string {
	switch s {
	case Empty:
		return "empty"
	case Founded:
		return "founded"
	case Used:
		return "used"
	}
	return fmt.Sprintf("stage(%d)", uint8(s))
}

// Data is an open data directory. It belongs to one goroutine, but for
// Snapshots, Scrub and the reserve, which any may use.
type Data struct {
	fs     vfs.FS
	dir    string
	pacing pacing
	suffix string // of the names of its files: "" but for a set beside the one in use
	lock   io.Closer
	id     uint64
	first  *FirstConfig // nil before the founding
	// founding: the log may be missing or half created, and holds nothing.
	founding bool
	snaps    *Snapshots
	opened   atomic.Pointer[wal.Log] // for the scrub; nil before OpenLog
	reserve  reserve
}

// Options of a data directory. FS and Dir must be set.
type Options struct {
	FS  vfs.FS
	Dir string
	// Now and Sleep are what background work, the writing of snapshots and the
	// scrub, measures itself by and pauses with for the sake of the disk. Sleep
	// returns the error of a context that ends before. nil is time itself.
	Now   func() time.Time
	Sleep func(ctx context.Context, d time.Duration) error
}

// OpenData is OpenDataWith of a file system and a directory.
func OpenData(fsys vfs.FS, dir string) (*Data, error) {
	return OpenDataWith(Options{FS: fsys, Dir: dir})
}

// OpenDataWith locks the directory, creating it if it is missing, and reads its
// identity. A directory seen for the first time gets its random raft id here,
// synced before anything else uses it. Errors: ErrInUse; *DamageError.
func OpenDataWith(o Options) (*Data, error) {
	fsys, dir := o.FS, o.Dir
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := fsys.Lock(filepath.Join(dir, fileLock))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("lock data directory %s: %w", dir, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	d := newData(fsys, dir, "")
	d.lock = lock
	d.setPacing(o)
	err = finishRecovery(fsys, dir)
	if err == nil {
		err = d.load()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

func newData(fsys vfs.FS, dir, suffix string) *Data {
	d := &Data{fs: fsys, dir: dir, pacing: realTime, suffix: suffix, snaps: newSnapshots(fsys, dir)}
	d.snaps.dir = d.path(dirSnapshots)
	return d
}

func (d *Data) load() error {
	first, err := d.readFirst()
	if err != nil {
		return err
	}
	d.first = first
	hasLog, err := vfs.Exists(d.fs, d.path(dirLog))
	if err != nil {
		return fmt.Errorf("look for the log: %w", err)
	}
	founding, err := vfs.Exists(d.fs, d.path(fileFounding))
	if err != nil {
		return fmt.Errorf("look for an unfinished founding: %w", err)
	}
	d.founding = founding
	hasSnapshots, err := d.snaps.any()
	if err != nil {
		return err
	}
	if (hasLog || hasSnapshots) && first == nil {
		return d.damage("there is a log or a snapshot and no first configuration", nil)
	}
	if first != nil && !hasLog && !founding {
		return d.damage("there is a first configuration and no log", nil)
	}
	id, err := d.readID()
	switch {
	case errors.Is(err, fs.ErrNotExist) && (hasLog || first != nil):
		return d.damage("there is a log or a first configuration and no raft id", nil)
	case errors.Is(err, fs.ErrNotExist):
		return d.drawID()
	}
	d.id = id
	return err
}

// readID returns the raft id that is stored; fs.ErrNotExist, *DamageError.
func (d *Data) readID() (uint64, error) {
	b, err := vfs.ReadFile(d.fs, d.path(fileRaftID), maxLine)
	switch {
	case errors.Is(err, vfs.ErrTooLarge) || vfs.Unreadable(err):
		return 0, d.damage("raft id cannot be read", err)
	case err != nil:
		return 0, fmt.Errorf("read raft id: %w", err)
	}
	id, err := parseLine(fileRaftID, b)
	if err == nil && !ValidRaftID(id) {
		err = fmt.Errorf("%x is reserved", id)
	}
	if err != nil {
		return 0, d.damage("raft id cannot be read", err)
	}
	return id, nil
}

// drawRaftID returns a random raft id.
func drawRaftID() (id uint64, err error) {
	var b [8]byte
	for !ValidRaftID(id) {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("draw raft id: %w", err)
		}
		id = binary.BigEndian.Uint64(b[:])
	}
	return id, nil
}

func (d *Data) drawID() (err error) {
	if d.id, err = drawRaftID(); err != nil {
		return err
	}
	if err := d.fs.WriteFile(d.path(fileRaftID), formatLine(fileRaftID, d.id), 0o600); err != nil {
		return fmt.Errorf("store raft id: %w", err)
	}
	return nil
}

// RaftID returns the identity of this data directory.
func (d *Data) RaftID() uint64 { return d.id }

// First returns the first configuration, or false before the founding.
func (d *Data) First() (FirstConfig, bool) {
	if d.first == nil {
		return FirstConfig{}, false
	}
	return *d.first, true
}

// PublishFirst stores the first configuration, synced before it returns: the
// founding, or the joining of a node that is new (F1, F2). A log that holds
// nothing but an older founding is dropped first; a log that is in use is
// never touched.
func (d *Data) PublishFirst(c FirstConfig, stage Stage) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("publish first configuration: %w", err)
	}
	if d.first != nil && d.first.ID() == c.ID() {
		return nil
	}
	if stage == Used {
		return errors.New("publish first configuration: the log is in use")
	}
	if err := d.fs.WriteFile(d.path(fileFounding), []byte("holdfast founding 1\n"), 0o600); err != nil {
		return fmt.Errorf("mark founding: %w", err)
	}
	d.founding = true
	if err := d.removeLog(); err != nil {
		return fmt.Errorf("drop the log of an older founding: %w", err)
	}
	b := c.Encode()
	sum := sha256.Sum256(b)
	if err := d.fs.WriteFile(d.path(fileFirst), append(b, sum[:]...), 0o600); err != nil {
		return fmt.Errorf("store first configuration: %w", err)
	}
	c = c.Canonical()
	d.first = &c
	return nil
}

func (d *Data) removeLog() error {
	names, err := d.fs.ReadDir(d.path(dirLog))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.fs.Remove(filepath.Join(d.path(dirLog), name)); err != nil {
			return err
		}
	}
	if err := d.fs.SyncDir(d.path(dirLog)); err != nil {
		return err
	}
	if err := d.fs.Remove(d.path(dirLog)); err != nil {
		return err
	}
	return d.fs.SyncDir(d.dir)
}

func (d *Data) readFirst() (*FirstConfig, error) {
	b, err := vfs.ReadFile(d.fs, d.path(fileFirst), maxFirst)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, vfs.ErrTooLarge) || vfs.Unreadable(err) {
		return nil, d.damage("first configuration cannot be read", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read first configuration: %w", err)
	}
	n := len(b) - sha256.Size
	if n < 0 {
		return nil, d.damage("first configuration is cut short", nil)
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil, d.damage("first configuration has a wrong checksum", nil)
	}
	c, err := DecodeFirst(b[:n])
	if err != nil {
		return nil, d.damage("first configuration cannot be read", err)
	}
	return &c, nil
}

// StoredPromise returns the longest promise this directory's voter may still
// have outstanding from before its start (G2); 0 when it never granted.
func (d *Data) StoredPromise() (time.Duration, error) {
	b, err := vfs.ReadFile(d.fs, d.path(filePromise), maxLine)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read promise: %w", err)
	}
	v, err := parseLine(filePromise, b)
	if err == nil && (v == 0 || v > uint64(maxPromise)) {
		err = fmt.Errorf("%d ns is out of range", v)
	}
	if err != nil {
		// A promise is not part of the raft identity: waiting for the longest
		// possible one is always safe.
		return maxPromise, nil
	}
	return time.Duration(v), nil
}

// StorePromise makes p durable before it returns. G2: call it before the
// first grant, and replace a longer promise only after the wait.
func (d *Data) StorePromise(p time.Duration) error {
	if p <= 0 || p > maxPromise {
		return fmt.Errorf("store promise: %s is out of range (at most %s)", p, maxPromise)
	}
	if old, err := d.StoredPromise(); err == nil && old == p {
		return nil
	}
	if err := d.fs.WriteFile(d.path(filePromise), formatLine(filePromise, uint64(p)), 0o600); err != nil {
		return fmt.Errorf("store promise: %w", err)
	}
	return nil
}

// Close releases the lock. The log must be closed before.
func (d *Data) Close() error { return d.lock.Close() }

// SetAside renames raft id, first configuration, log and snapshots (with those
// received in part) to names ending in label, keeps the promise (a promise
// binds the machine, not its raft id), and returns the new names. The next
// OpenData draws a new raft id: the node is then a new node (F2). The log must
// be closed; a Data over the directory must be closed and opened again.
func SetAside(fsys vfs.FS, dir, label string) ([]string, error) {
	lock, err := fsys.Lock(filepath.Join(dir, fileLock))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("set aside: %w", ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("set aside: %w", err)
	}
	var moved []string
	// A recovery that was cut short is ended first: its rest must not come over
	// what this leaves.
	if err = finishRecovery(fsys, dir); err == nil {
		moved, err = setAside(fsys, dir, label)
	}
	if err != nil {
		err = fmt.Errorf("set aside: %w", err)
	}
	return moved, errors.Join(err, lock.Close())
}

// dataFiles are the names that belong to one raft identity, in the order in
// which they are set aside. The raft id goes first: after a power cut in between
// OpenData refuses the rest, and never starts an id that others know with a log
// that shrank (F2). A second SetAside then finishes the work.
var dataFiles = []string{fileRaftID, dirLog, dirSnapshots, fileFirst, fileFounding}

func setAside(fsys vfs.FS, dir, label string) (moved []string, err error) {
	for _, name := range dataFiles {
		from := filepath.Join(dir, name)
		ok, err := vfs.Exists(fsys, from)
		if err == nil && ok {
			err = fsys.Publish(from, from+AsideMark+label)
			moved = append(moved, from+AsideMark+label)
		}
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

func (d *Data) path(name string) string { return filepath.Join(d.dir, name+d.suffix) }

func (d *Data) damage(what string, cause error) error {
	return &DamageError{Dir: d.dir, What: what, Hint: asideHint, Err: cause}
}

const (
	maxLine    = 256
	maxFirst   = 4 << 20
	maxPromise = 10 * time.Minute
)

// formatLine writes a number as one readable line with its checksum:
// "holdfast raft-id 1 00000000deadbeef 1a2b3c4d".
func formatLine(name string, v uint64) []byte {
	body := fmt.Sprintf("holdfast %s 1 %016x", name, v)
	return fmt.Appendf(nil, "%s %08x\n", body, crc32.Checksum([]byte(body), castagnoli))
}

func parseLine(name string, b []byte) (uint64, error) {
	fields := strings.Fields(string(b))
	if len(fields) != 5 {
		return 0, fmt.Errorf("%d fields, want 5", len(fields))
	}
	var v uint64
	if _, err := fmt.Sscanf(fields[3], "%x", &v); err != nil {
		return 0, fmt.Errorf("read number: %w", err)
	}
	if !bytes.Equal(b, formatLine(name, v)) {
		return 0, errors.New("wrong checksum or format")
	}
	return v, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
