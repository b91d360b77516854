package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// receiveSync is how much of a received file may be lost in a power cut, bytes.
const receiveSync = 1 << 20

// Receiver takes a snapshot file from another node. One goroutine uses it, with
// one call at a time.
//
// Invariant: the first check.pos() bytes of file are those that were given, and
// each whole block of them is right.
type Receiver struct {
	snaps    *Snapshots
	meta     SnapshotMeta
	name     string
	file     vfs.File
	check    *snapCheck
	unsynced int64
	bad      error // final
}

// Receive begins to take a snapshot, or goes on with one of which a part is
// here: Offset says where. Parts of others are dropped. There is one Receiver
// at a time.
func (s *Snapshots) Receive(meta SnapshotMeta) (*Receiver, error) {
	s.mu.Lock()
	busy, cluster := s.receiving, s.cluster
	s.receiving = s.receiving || cluster == meta.Cluster
	s.mu.Unlock()
	switch {
	case cluster != meta.Cluster:
		return nil, fmt.Errorf("receive snapshot %d: of cluster %x, this node is of %x", meta.Index, meta.Cluster, cluster)
	case busy:
		return nil, fmt.Errorf("receive snapshot %d: another is being received", meta.Index)
	}
	r, err := s.receive(meta)
	if err != nil {
		s.endReceive()
		return nil, fmt.Errorf("receive snapshot %d: %w", meta.Index, err)
	}
	return r, nil
}

func (s *Snapshots) endReceive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiving = false
}

func (s *Snapshots) receive(meta SnapshotMeta) (*Receiver, error) {
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	own := partName(&meta)
	drop, err := s.list(func(name string) bool { return strings.HasSuffix(name, partSuffix) && name != own })
	if err != nil {
		return nil, err
	}
	if err := s.remove(drop); err != nil {
		return nil, err
	}
	r := &Receiver{snaps: s, meta: meta, name: filepath.Join(s.dir, own)}
	if r.file, err = s.fs.OpenFile(r.name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := r.resume(); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return r, nil
}

// resume finds how much of the part is right, and cuts the rest.
func (r *Receiver) resume() error {
	if err := r.file.Reload(); err != nil {
		return err
	}
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	r.check = newSnapCheck(r.name, nil)
	raw := make([]byte, 256<<10)
	// Never all of it: what is left says that the file is to be finished.
	for end := min(size, r.meta.Size-1); r.check.pos() < end; {
		at := r.check.pos()
		n, err := r.file.ReadAt(raw[:min(int64(len(raw)), end-at)], at)
		if err != nil && !errors.Is(err, io.EOF) && !vfs.Unreadable(err) {
			return err
		}
		if _, bad := r.check.Write(raw[:n]); bad != nil || err != nil || n == 0 {
			break
		}
	}
	r.check.rewind()
	if r.check.good > 0 && !r.check.meta.sameState(&r.meta) {
		r.check = newSnapCheck(r.name, nil)
	}
	if r.check.good == size {
		return nil
	}
	if err := r.file.Truncate(r.check.good); err != nil {
		return err
	}
	return r.file.Sync()
}

// Offset returns how much of the file is here, bytes: where to go on.
func (r *Receiver) Offset() int64 { return r.check.pos() }

// Write adds bytes at Offset. An error that wraps wal.ErrCorrupt means that
// they are not the file that was announced; the part is of no use then, and
// goes with Close.
func (r *Receiver) Write(offset int64, b []byte) error {
	switch at := r.check.pos(); {
	case r.bad != nil:
		return r.bad
	case offset != at:
		return fmt.Errorf("receive snapshot %d: bytes at %d, want %d", r.meta.Index, offset, at)
	case int64(len(b)) > r.meta.Size-at:
		r.bad = r.check.damaged("file is longer than %d bytes", r.meta.Size)
		return r.bad
	}
	before := r.check.good
	if _, err := r.check.Write(b); err != nil {
		r.bad = err
		return err
	}
	if before == 0 && r.check.good > 0 && !r.check.meta.sameState(&r.meta) {
		r.bad = &SnapshotError{File: r.name, Why: "header is not that of the snapshot announced"}
		return r.bad
	}
	if _, err := r.file.WriteAt(b, offset); err != nil {
		return r.failed(err)
	}
	if r.unsynced += int64(len(b)); r.unsynced < receiveSync {
		return nil
	}
	if err := r.file.Sync(); err != nil {
		return r.failed(err)
	}
	r.unsynced = 0
	return nil
}

// failed makes an error of the disk final for this Receiver; the next one looks
// at what is on disk.
func (r *Receiver) failed(err error) error {
	r.bad = fmt.Errorf("receive snapshot %d: %w", r.meta.Index, err)
	return r.bad
}

// Finish reads back what is on disk, checks all of it, publishes the file and
// returns the state in it. The log does not follow it before Log.Install. The
// Receiver is closed whatever the outcome. An error that wraps wal.ErrCorrupt
// means that the file is not what was announced: the part is dropped, and the
// next Receive begins anew.
func (r *Receiver) Finish(ctx context.Context) (*State, error) {
	state, err := r.finish(ctx)
	if err == nil {
		err = r.publish()
	}
	if err != nil {
		err = r.failed(err)
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return state, nil
}

func (r *Receiver) finish(ctx context.Context) (*State, error) {
	if r.bad != nil {
		return nil, r.bad
	}
	if at := r.check.pos(); at != r.meta.Size {
		return nil, fmt.Errorf("%d of %d bytes are here", at, r.meta.Size)
	}
	if err := r.file.Reload(); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	state, got, err := decodeSnapshot(ctx, r.name, r.file)
	if err != nil {
		return nil, err
	}
	if !got.sameState(&r.meta) || got.Size != r.meta.Size || got.Sum != r.meta.Sum {
		return nil, &SnapshotError{File: r.name, Why: "it is not the snapshot announced"}
	}
	return state, nil
}

// publish gives the file its name, unless the log came as far meanwhile: then
// raft will not take it.
func (r *Receiver) publish() error {
	if newest, _ := r.snaps.Newest(); r.meta.Index <= newest.Index {
		return r.snaps.remove([]string{filepath.Base(r.name)})
	}
	return r.snaps.publish(r.name, r.meta)
}

// Close ends the Receiver and keeps what is here for the next one, unless it
// was damaged or found no room. It may be called again, and after Finish.
func (r *Receiver) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	if errors.Is(r.bad, wal.ErrCorrupt) || errors.Is(r.bad, syscall.ENOSPC) || errors.Is(r.bad, syscall.EDQUOT) {
		err = errors.Join(err, r.snaps.remove([]string{filepath.Base(r.name)}))
	}
	r.snaps.endReceive()
	if r.bad == nil {
		r.bad = fs.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("close partial snapshot: %w", err)
	}
	return nil
}
