package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Write makes a snapshot of a state and returns it once it is on disk, read
// back and published. The disk is left to others for as long as it works here.
// If a newer one was installed meanwhile, that is returned. Files of older
// snapshots stay until the log follows this one (Log.Compact). Errors that wrap
// ENOSPC leave nothing behind and may be tried again; after any other nothing
// is known about the disk.
func (s *Snapshots) Write(ctx context.Context, f *Frozen) (SnapshotMeta, error) {
	s.mu.Lock()
	newest, busy := s.newest, s.writing
	s.writing = true
	s.mu.Unlock()
	invariant.Check(!busy, "snapshot at index %d begun while another is written", f.Index())
	defer func() {
		s.mu.Lock()
		s.writing = false
		s.mu.Unlock()
	}()
	invariant.Check(f.Index() > FirstIndex, "snapshot at index %d", f.Index())
	if f.Index() <= newest.Index {
		return newest, nil
	}
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return SnapshotMeta{}, fmt.Errorf("create snapshot directory: %w", err)
	}
	tmp := filepath.Join(s.dir, fmt.Sprintf("%016x%s", f.Index(), writingSuffix))
	meta, err := s.writeFile(ctx, tmp, f)
	if err != nil {
		// Room for others; what cannot be removed goes at the next start.
		_ = s.fs.Remove(tmp)
		return SnapshotMeta{}, fmt.Errorf("write snapshot %d: %w", f.Index(), err)
	}
	if err := s.publish(tmp, meta); err != nil {
		return SnapshotMeta{}, fmt.Errorf("write snapshot %d: %w", f.Index(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.Index < meta.Index {
		s.newest = meta
	}
	return s.newest, nil
}

func (s *Snapshots) publish(tmp string, meta SnapshotMeta) error {
	if err := s.fs.Publish(tmp, s.name(meta.Index)); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[meta.Index] = meta
	return nil
}

func (s *Snapshots) writeFile(ctx context.Context, tmp string, f *Frozen) (SnapshotMeta, error) {
	file, err := s.fs.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return SnapshotMeta{}, err
	}
	meta := SnapshotMeta{Cluster: f.Cluster(), Index: f.Index(), Term: f.Term(), Conf: f.Conf(), Hash: f.Hash()}
	err = fill(ctx, file, s.pacing, f, &meta)
	if err == nil {
		err = verify(ctx, tmp, file, meta)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return SnapshotMeta{}, err
	}
	return meta, nil
}

// fill writes and syncs the file, and completes its meta.
func fill(ctx context.Context, file vfs.File, pace pacing, f *Frozen, meta *SnapshotMeta) error {
	out := &pieceWriter{ctx: ctx, file: file, pacing: pace, buf: make([]byte, 0, snapPiece)}
	w, err := newSnapWriter(out, meta)
	if err == nil {
		err = f.Encode(w)
	}
	if err == nil {
		meta.Size, meta.Sum, err = w.end()
	}
	if err == nil {
		err = out.flush()
	}
	return err
}

// verify reads back what is on disk.
func verify(ctx context.Context, name string, file vfs.File, meta SnapshotMeta) error {
	if err := file.Reload(); err != nil {
		return err
	}
	got, err := newSnapReader(name, file, func(int) error { return ctx.Err() }).rest()
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !got.sameState(&meta) || got.Size != meta.Size || got.Sum != meta.Sum {
		return &SnapshotError{File: name, Why: "what was read back is not what was written"}
	}
	return nil
}

// snapPiece is how much of a snapshot is written between two syncs, bytes: a
// sync of the log waits for one piece at most.
const snapPiece = 256 << 10

// pieceWriter writes a file piece by piece, syncs each, and then leaves the
// disk to the log for twice as long as that took.
type pieceWriter struct {
	ctx    context.Context
	file   vfs.File
	pacing pacing
	buf    []byte
	offset int64
}

func (p *pieceWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		k := min(snapPiece-len(p.buf), len(b))
		p.buf = append(p.buf, b[:k]...)
		b = b[k:]
		if len(p.buf) == snapPiece {
			if err := p.flush(); err != nil {
				return n - len(b), err
			}
		}
	}
	return n, nil
}

func (p *pieceWriter) flush() error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	began := p.pacing.now()
	if _, err := p.file.WriteAt(p.buf, p.offset); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	last := len(p.buf) < snapPiece
	p.offset += int64(len(p.buf))
	p.buf = p.buf[:0]
	if last {
		return nil
	}
	return p.pacing.sleep(p.ctx, min(2*p.pacing.now().Sub(began), maxPause))
}
