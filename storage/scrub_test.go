package storage

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// Covers F2: what is damaged at rest is found while all of it is in use, and
// the file is named.
func TestScrubFindsDamage(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	if report, err := d.Scrub(t.Context(), 0); err != nil || report.Segments != 0 || report.Snapshots != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	fillLog(t, l, 200)
	meta := snapshotAt(t, d, l, 100)
	fillLog(t, l, 250)
	report, err := d.Scrub(t.Context(), 0)
	if err != nil || report.Segments < 2 || report.Snapshots != 1 || report.Bytes != int64(report.Segments)*smallLog.SegmentBytes+meta.Size {
		t.Fatalf("%+v, %v", report, err)
	}
	names, err := disk.ReadDir("/data/wal")
	if err != nil {
		t.Fatal(err)
	}
	snapshot := d.Snapshots().name(100)
	for _, row := range []struct {
		name   string
		offset int64
	}{
		{"/data/wal/" + names[0], 10}, {"/data/wal/" + names[0], 5000}, {"/data/wal/" + names[1], 9000},
		{snapshot, 7}, {snapshot, 6000}, {snapshot, meta.Size - 1},
		{"/data/" + fileRaftID, 25}, {"/data/" + fileFirst, 80},
	} {
		flipFile(t, disk, row.name, row.offset)
		if _, err := d.Scrub(t.Context(), 0); !isDamage(err) {
			t.Errorf("flip at %d of %s: %v", row.offset, row.name, err)
		}
		flipFile(t, disk, row.name, row.offset)
	}
	if _, err := d.Scrub(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := disk.Remove(snapshot); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Scrub(t.Context(), 0); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("snapshot is missing: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestScrubIsSlowAndEnds(t *testing.T) {
	d, l := founded(t, vfs.NewMem())
	fillLog(t, l, 120)
	snapshotAt(t, d, l, 20)
	began := time.Now()
	report, err := d.Scrub(t.Context(), 8<<20)
	if want := time.Duration(report.Bytes) * time.Second / (8 << 20); err != nil || time.Since(began) < want {
		t.Fatalf("%d bytes in %s, %v", report.Bytes, time.Since(began), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Scrub(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Scrub(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// Scrubs, snapshots, releases, sending and saving at once. What a newer snapshot
// replaces meanwhile is no damage.
func TestEverythingAtOnce(t *testing.T) {
	d, l := founded(t, vfs.NewMem())
	state := NewState(firstConfig())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := d.Scrub(t.Context(), 0); err != nil {
					t.Error(err)
					return
				}
				if meta, ok := d.Snapshots().Newest(); ok {
					if f, err := d.Snapshots().Open(meta.Index); err == nil {
						if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
							t.Error(err)
						}
						if err := f.Close(); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	for to := uint64(20); to <= 300; to += 20 {
		fillLog(t, l, to)
		meta, err := d.Snapshots().Write(t.Context(), applyTruth(t, state, to).Freeze())
		if err != nil {
			t.Fatal(err)
		}
		release := l.Compact(meta)
		wg.Go(func() {
			if err := release(); err != nil {
				t.Error(err)
			}
		})
	}
	close(stop)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// Covers F3: an unreadable medium is damage wherever it is met at the start.
func TestUnreadableAtStart(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	fillLog(t, l, 70)
	snapshotAt(t, d, l, 60)
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	err := start(vfs.Inject(disk, func(op vfs.Op) error {
		if op.Kind == vfs.OpRead {
			files[op.Path] = true
		}
		return nil
	}))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for name := range files {
		err := start(vfs.Inject(disk, func(op vfs.Op) error {
			if op.Kind == vfs.OpRead && op.Path == name {
				return syscall.EIO
			}
			return nil
		}))
		if !isDamage(err) {
			t.Errorf("%s cannot be read: %v", name, err)
		}
	}
}

func TestReserve(t *testing.T) {
	disk := vfs.NewMem()
	full := true
	d := open(t, vfs.Inject(disk, func(op vfs.Op) error {
		if full && op.Kind == vfs.OpWrite && op.Offset >= 2*snapPiece && op.Path == "/data/reserve.tmp" {
			return syscall.ENOSPC
		}
		return nil
	}))
	const size = 3*snapPiece + 100
	if d.ReserveHeld() {
		t.Fatal("a new directory has a reserve")
	}
	if err := d.Reserve(size); !errors.Is(err, syscall.ENOSPC) || d.ReserveHeld() {
		t.Fatalf("on a full disk: %v", err)
	}
	if ok, _ := vfs.Exists(disk, "/data/reserve.tmp"); ok {
		t.Fatal("the room is not given back")
	}
	full = false
	for range 2 {
		if err := d.Reserve(size); err != nil || !d.ReserveHeld() {
			t.Fatal(err)
		}
	}
	if d.Reserve(0) == nil || d.Reserve(maxReserve+1) == nil {
		t.Fatal("impossible reserve made")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Crash(vfs.CrashOptions{})
	d = open(t, disk)
	if info, err := disk.Stat("/data/reserve"); err != nil || info.Size != size || !d.ReserveHeld() {
		t.Fatalf("after a power cut: %+v, %v", info, err)
	}
	for range 2 {
		if err := d.ReleaseReserve(); err != nil || d.ReserveHeld() {
			t.Fatal(err)
		}
	}
	if ok, _ := vfs.Exists(disk.CrashClone(vfs.CrashOptions{}), "/data/reserve"); ok {
		t.Fatal("the release is not durable")
	}
	// Another size is made anew.
	if err := errors.Join(d.Reserve(100), d.Reserve(200)); err != nil {
		t.Fatal(err)
	}
	if info, err := disk.Stat("/data/reserve"); err != nil || info.Size != 200 {
		t.Fatalf("%+v, %v", info, err)
	}
}
