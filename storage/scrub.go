package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// ScrubReport is what a scrub has read and found right.
type ScrubReport struct {
	Segments  int   // sealed segments of the log
	Snapshots int   // 0 or 1
	Bytes     int64 // read
}

// Scrub reads again what is at rest: the sealed segments of the log, the
// snapshot that it follows, raft id and first configuration. It runs on any
// goroutine while all of them are in use, reads what the disk holds rather than
// what is cached, and at most so many bytes a second (0 for no bound). Damage is
// an error that wraps wal.ErrCorrupt or a *DamageError; nothing is changed by
// it. What is released meanwhile is left out.
func (d *Data) Scrub(ctx context.Context, bytesPerSecond int64) (ScrubReport, error) {
	var report ScrubReport
	p := &pacer{ctx: ctx, rate: bytesPerSecond, pacing: d.pacing, began: d.pacing.now()}
	if err := d.scrubIdentity(); err != nil {
		return report, err
	}
	if w := d.opened.Load(); w != nil {
		segments, bytes, err := w.Scrub(p.pace)
		report.Segments, report.Bytes = segments, bytes
		if err != nil {
			return report, fmt.Errorf("scrub log: %w", err)
		}
	}
	bytes, err := d.snaps.scrub(p)
	if err != nil {
		return report, fmt.Errorf("scrub snapshot: %w", err)
	}
	if bytes > 0 {
		report.Snapshots = 1
	}
	report.Bytes += bytes
	return report, nil
}

// scrubIdentity compares the small files with what was read at the start.
func (d *Data) scrubIdentity() error {
	b, err := vfs.ReadFile(d.fs, d.path(fileRaftID), maxLine)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, vfs.ErrTooLarge) && !vfs.Unreadable(err) {
		return fmt.Errorf("read raft id: %w", err)
	}
	if id, bad := parseLine(fileRaftID, b); err != nil || bad != nil || id != d.id {
		return d.damage("raft id has changed on disk", errors.Join(err, bad))
	}
	opened := d.opened.Load()
	if opened == nil {
		return nil // the first configuration may be written just now
	}
	first, err := d.readFirst()
	if err != nil {
		return err
	}
	if first == nil || first.ID() != d.snaps.clusterID() {
		return d.damage("first configuration has changed on disk", nil)
	}
	return nil
}

// scrub reads the newest snapshot; its answer is 0 when there is none or a
// newer one took its place meanwhile.
func (s *Snapshots) scrub(p *pacer) (int64, error) {
	meta, ok := s.Newest()
	if !ok {
		return 0, nil
	}
	err := s.scrubFile(meta, p)
	if now, _ := s.Newest(); err != nil && p.ctx.Err() == nil && now.Index != meta.Index {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return meta.Size, nil
}

func (s *Snapshots) scrubFile(meta SnapshotMeta, p *pacer) error {
	f, err := s.Open(meta.Index)
	if err != nil {
		return err
	}
	if err = f.file.Reload(); err == nil {
		var got SnapshotMeta
		got, err = newSnapReader(s.name(meta.Index), f.file, p.pace).rest()
		if err == nil && (!got.sameState(&meta) || got.Size != meta.Size || got.Sum != meta.Sum) {
			err = &SnapshotError{File: s.name(meta.Index), Why: "it is another snapshot than was written"}
		}
	}
	return errors.Join(err, f.Close())
}
