package storage

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// send gives a receiver a file from where it is to an offset.
func send(t *testing.T, r *Receiver, b []byte, to int) {
	t.Helper()
	for at := int(r.Offset()); at < to; {
		n := min(to-at, 10_000)
		if err := r.Write(int64(at), b[at:at+n]); err != nil {
			t.Fatal(err)
		}
		at += n
	}
}

func mustReceive(t *testing.T, s *Snapshots, meta SnapshotMeta) *Receiver {
	t.Helper()
	r, err := s.Receive(meta)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReceiveResumes(t *testing.T) {
	meta, b := remote(t, 200)
	disk := vfs.NewMem()
	s := memSnapshots(disk)
	if _, err := s.Receive(SnapshotMeta{Index: 9, Term: 1}); err == nil {
		t.Fatal("snapshot of another cluster taken")
	}
	r := mustReceive(t, s, meta)
	if _, err := s.Receive(meta); err == nil {
		t.Fatal("two at a time")
	}
	if r.Offset() != 0 {
		t.Fatalf("begins at %d", r.Offset())
	}
	const stop = snapHeader + snapBlock + 1000
	send(t, r, b, stop)
	if err := r.Write(stop+1, b[stop+1:stop+2]); err == nil {
		t.Fatal("a gap is taken")
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if err := r.Write(stop, b[stop:stop+1]); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("write after close: %v", err)
	}
	// It goes on at the last whole block, and after a power cut at what was
	// synced: nothing yet.
	r = mustReceive(t, s, meta)
	if r.Offset() != snapHeader+snapBlock+blockHead {
		t.Fatalf("goes on at %d", r.Offset())
	}
	send(t, r, b, len(b))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	cut := memSnapshots(disk.CrashClone(vfs.CrashOptions{}))
	rc := mustReceive(t, cut, meta)
	if off := rc.Offset(); off > snapHeader+snapBlock+blockHead {
		t.Fatalf("after a power cut it goes on at %d", off)
	}
	send(t, rc, b, len(b))
	if _, err := rc.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	// All of it being here, the sum alone is asked for again.
	r = mustReceive(t, s, meta)
	if r.Offset() != int64(len(b)-snapFooter) {
		t.Fatalf("goes on at %d of %d", r.Offset(), len(b))
	}
	send(t, r, b, len(b))
	state, err := r.Finish(t.Context())
	if err != nil || state.Hash() != meta.Hash {
		t.Fatalf("finish: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Newest(); ok {
		t.Fatal("what the log does not follow counts")
	}
	if got := mustRead(t, s, 200); !bytes.Equal(got, b) {
		t.Fatal("another file was published")
	}
}

// A part is never continued as another file, though index and state be the
// same.
func TestReceiveDropsParts(t *testing.T) {
	meta, b := remote(t, 200)
	disk := vfs.NewMem()
	s := memSnapshots(disk)
	r := mustReceive(t, s, meta)
	send(t, r, b, len(b)/2)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	other := meta
	other.Sum[0]++
	r = mustReceive(t, s, other)
	if r.Offset() != 0 {
		t.Fatalf("goes on at %d", r.Offset())
	}
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 1 {
		t.Fatalf("left over: %v", names)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A part that the log has overtaken goes, with the next release or start.
func TestOldPartsGo(t *testing.T) {
	meta, b := remote(t, 50)
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	part := func() bool {
		names, err := disk.ReadDir("/data/snap")
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(names, partName(&meta))
	}
	begin := func() *Receiver {
		r := mustReceive(t, d.Snapshots(), meta)
		send(t, r, b, len(b)/2)
		return r
	}
	if err := begin().Close(); err != nil {
		t.Fatal(err)
	}
	fillLog(t, l, 70)
	snapshotAt(t, d, l, 40)
	if !part() {
		t.Fatal("a part that may be needed is gone")
	}
	snapshotAt(t, d, l, 50)
	if part() {
		t.Fatal("a part of no use is kept")
	}
	r := begin()
	snapshotAt(t, d, l, 60)
	if !part() {
		t.Fatal("a part is taken away while it is received")
	}
	if err := errors.Join(r.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	mustOpenLog(t, d)
	if part() {
		t.Fatal("a part of no use outlives a start")
	}
}

func TestReceiveRefusesDamage(t *testing.T) {
	meta, b := remote(t, 200)
	later, _ := remote(t, 201)
	for name, row := range map[string]struct {
		meta   SnapshotMeta
		change func(b []byte) []byte
	}{
		"header":         {meta, func(b []byte) []byte { b[20]++; return b }},
		"block":          {meta, func(b []byte) []byte { b[snapHeader+5000]++; return b }},
		"sum":            {meta, func(b []byte) []byte { b[len(b)-1]++; return b }},
		"another":        {later, func(b []byte) []byte { return b }},
		"another sum":    {func() SnapshotMeta { m := meta; m.Sum[3]++; return m }(), func(b []byte) []byte { return b }},
		"announced less": {func() SnapshotMeta { m := meta; m.Size--; return m }(), func(b []byte) []byte { return b }},
	} {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewMem()
			s := memSnapshots(disk)
			r := mustReceive(t, s, row.meta)
			bad := row.change(bytes.Clone(b))
			var err error
			for at := 0; at < len(bad) && err == nil; at += 10_000 {
				err = r.Write(int64(at), bad[at:min(at+10_000, len(bad))])
			}
			if err == nil {
				_, err = r.Finish(t.Context())
			} else if _, again := r.Finish(t.Context()); !errors.Is(again, wal.ErrCorrupt) {
				t.Fatalf("finish after %v: %v", err, again)
			}
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("taken: %v", err)
			}
			if names, _ := disk.ReadDir("/data/snap"); len(names) != 0 {
				t.Fatalf("left over: %v", names)
			}
			r = mustReceive(t, s, meta)
			send(t, r, b, len(b))
			if _, err := r.Finish(t.Context()); err != nil {
				t.Fatalf("the next one: %v", err)
			}
		})
	}
}

// A part that rots is cut where it is rotten.
func TestReceiveOverRot(t *testing.T) {
	meta, b := remote(t, 200)
	for _, row := range []struct{ flip, want int64 }{
		{100, 0},
		{snapHeader + 3, snapHeader},
		{snapHeader + snapBlock + blockHead + 20, snapHeader + snapBlock + blockHead},
		{int64(len(b) - 5), int64(len(b) - snapFooter)}, // the sum is sent again in any case
	} {
		disk := vfs.NewMem()
		s := memSnapshots(disk)
		r := mustReceive(t, s, meta)
		name := r.name
		send(t, r, b, len(b))
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		flipFile(t, disk, name, row.flip)
		r = mustReceive(t, s, meta)
		if r.Offset() != row.want {
			t.Errorf("flip at %d: goes on at %d, want %d", row.flip, r.Offset(), row.want)
		}
		send(t, r, b, len(b))
		if _, err := r.Finish(t.Context()); err != nil {
			t.Errorf("flip at %d: %v", row.flip, err)
		}
	}
}

// No room: the part is given back, so that it does not keep the log from room.
func TestReceiveOnFullDisk(t *testing.T) {
	meta, b := remote(t, 200)
	disk := vfs.NewMem()
	s := memSnapshots(vfs.Inject(disk, vfs.Nth(3, syscall.ENOSPC, func(op vfs.Op) bool { return op.Kind == vfs.OpWrite })))
	r := mustReceive(t, s, meta)
	var err error
	for at := 0; err == nil; at += 10_000 {
		err = r.Write(int64(at), b[at:at+10_000])
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(r.Write(r.Offset(), nil), syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if names, _ := disk.ReadDir(path.Dir(r.name)); len(names) != 0 {
		t.Fatalf("left over: %v", names)
	}
}
