package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage/kv"
	"github.com/holdfast-ha/holdfast/wal"
)

// The one history that the tests tell: what is committed at each index. Entries
// of other terms or data at an index are never committed.
func truthTerm(index uint64) uint64 { return 1 + index/10 }

func truthEntry(t testing.TB, index uint64) *raftpb.Entry {
	t.Helper()
	value := bytes.Repeat([]byte{byte(index)}, []int{10, 700, 3000, 1}[index%4])
	data := mustEncode(t, Batch{&kv.Batch{Clock: int64(index), MaxBytes: kv.DefaultMaxBytes, Requests: []kv.Request{{
		ID:   fmt.Sprintf("request-%d", index),
		Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: fmt.Sprintf("key-%d", index%50), Value: value}},
	}}}})
	return &raftpb.Entry{Index: new(index), Term: new(truthTerm(index)), Data: data}
}

func truthEntries(t testing.TB, from, to uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := from; i <= to; i++ {
		out = append(out, truthEntry(t, i))
	}
	return out
}

// applyTruth brings a state to an index.
func applyTruth(t testing.TB, s *State, to uint64) *State {
	t.Helper()
	for from, _ := s.Applied(); from < to; from++ {
		e := truthEntry(t, from+1)
		if _, err := s.Apply(e.GetIndex(), e.GetTerm(), e.GetData()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// remote returns the snapshot of another member at an index, and its file.
func remote(t testing.TB, index uint64) (SnapshotMeta, []byte) {
	t.Helper()
	s := newSnapshots(vfs.NewMem(), "/remote")
	s.setCluster(firstConfig().ID())
	meta, err := s.Write(t.Context(), applyTruth(t, NewState(firstConfig()), index).Freeze())
	if err != nil {
		t.Fatal(err)
	}
	return meta, mustRead(t, s, index)
}

func mustRead(t testing.TB, s *Snapshots, index uint64) []byte {
	t.Helper()
	f, err := s.Open(index)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, f.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func memSnapshots(m vfs.FS) *Snapshots {
	s := newSnapshots(m, "/data")
	s.setCluster(firstConfig().ID())
	return s
}

func TestSnapshotMetaRoundTrip(t *testing.T) {
	m, _ := remote(t, 30)
	m.Conf.Learners, m.Conf.Outgoing = []uint64{9}, []uint64{2, 3}
	got, err := DecodeSnapshotMeta(m.Encode())
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", m) {
		t.Fatalf("%+v, %v, want %+v", got, err, m)
	}
	r := m.Raft()
	if r.GetMetadata().GetIndex() != 30 || r.GetMetadata().GetTerm() != 4 || fmt.Sprint(ConfOf(r.GetMetadata().GetConfState())) != fmt.Sprint(m.Conf) {
		t.Fatalf("%v", r)
	}
	for name, change := range map[string]func(*SnapshotMeta){
		"founding":   func(m *SnapshotMeta) { m.Index = FirstIndex },
		"no term":    func(m *SnapshotMeta) { m.Term = 0 },
		"tiny":       func(m *SnapshotMeta) { m.Size = minSnapshot - 1 },
		"negative":   func(m *SnapshotMeta) { m.Size = -1 },
		"huge":       func(m *SnapshotMeta) { m.Size = maxSnapshot + 1 },
		"many nodes": func(m *SnapshotMeta) { m.Conf.Voters = make([]uint64, 2*MaxMembers+1) },
	} {
		bad := m
		change(&bad)
		if _, err := DecodeSnapshotMeta(bad.Encode()); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}

func FuzzDecodeSnapshotMeta(f *testing.F) {
	m, _ := remote(f, 5)
	f.Add(m.Encode())            // a real one
	f.Add([]byte(metaMagic))     // cut short
	f.Add(append(m.Encode(), 0)) // one byte too many
	f.Add(bytes.Repeat(m.Encode(), 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeSnapshotMeta(b); err == nil && !bytes.Equal(m.Encode(), b) {
			t.Fatal("two encodings of one description")
		}
	})
}

func FuzzDecodeBase(f *testing.F) {
	b := base{index: 5, term: 2, hardTerm: 3, hardVote: 1, commit: 7}
	f.Add(b.encode())               // a real one
	f.Add(b.encode()[:baseBytes-1]) // cut short
	f.Add(make([]byte, baseBytes))  // index 0
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeBase(b); err == nil && !bytes.Equal(got.encode(), b) {
			t.Fatal("two encodings of one record")
		}
	})
}

// readSnapshot reads a file as a start does.
func readSnapshot(b []byte) (*State, SnapshotMeta, error) {
	return decodeSnapshot(context.Background(), "f", bytes.NewReader(b))
}

// Whatever the bytes behind the header, reading ends with a state or with
// damage, and what is read writes the same bytes again.
func FuzzReadSnapshot(f *testing.F) {
	state := NewState(firstConfig())
	if _, err := state.Apply(2, 1, nil); err != nil {
		f.Fatal(err)
	}
	s := memSnapshots(vfs.NewMem())
	if _, err := s.Write(f.Context(), state.Freeze()); err != nil {
		f.Fatal(err)
	}
	file := mustRead(f, s, 2)
	head, b := file[:snapHeader], file[snapHeader:]
	f.Add(b)                     // a real one
	f.Add(b[:len(b)-1])          // cut short
	f.Add(append(b, 0))          // too long
	f.Add(b[:blockHead])         // a block without its data
	f.Add(b[len(b)-snapFooter:]) // a sum where a block belongs
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(bytes.Clone(head), b...)
		state, meta, err := readSnapshot(b)
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("error without verdict: %v", err)
			}
			return
		}
		s := memSnapshots(vfs.NewMem())
		again, err := s.Write(t.Context(), state.Freeze())
		if err != nil || again.Sum != meta.Sum || !bytes.Equal(mustRead(t, s, meta.Index), b) {
			t.Fatalf("written again it is another file: %v", err)
		}
	})
}

// Any header either is refused or says what encodes to it.
func FuzzSnapshotHeader(f *testing.F) {
	m, _ := remote(f, 5)
	b := encodeSnapHeader(&m)
	f.Add(b[:200])            // a real one, zeros left out
	f.Add(b[:len(snapMagic)]) // cut short
	f.Fuzz(func(t *testing.T, b []byte) {
		head := make([]byte, snapHeader)
		copy(head[:snapHeader-4], b)
		binary.BigEndian.PutUint32(head[snapHeader-4:], crc32.Checksum(head[:snapHeader-4], castagnoli))
		if m, _, err := decodeSnapHeader(head); err == nil && !bytes.Equal(encodeSnapHeader(&m), head) {
			t.Fatal("two encodings of one header")
		}
	})
}

func TestSnapshotIsWrittenAndRead(t *testing.T) {
	disk := vfs.NewMem()
	s := memSnapshots(disk)
	if _, ok := s.Newest(); ok {
		t.Fatal("a snapshot in an empty directory")
	}
	state := applyTruth(t, NewState(firstConfig()), 200)
	meta, err := s.Write(t.Context(), state.Freeze())
	if err != nil {
		t.Fatal(err)
	}
	if newest, ok := s.Newest(); !ok || newest.Sum != meta.Sum || meta.Index != 200 || meta.Hash != state.Hash() {
		t.Fatalf("newest %+v, written %+v", newest, meta)
	}
	b := mustRead(t, s, 200)
	if int64(len(b)) != meta.Size {
		t.Fatalf("%d bytes, size says %d", len(b), meta.Size)
	}
	got, err := DecodeState(iotest.OneByteReader(newSnapReader("f", bytes.NewReader(b), nil)))
	if err != nil || got.Hash() != state.Hash() {
		t.Fatalf("read byte by byte: %v", err)
	}
	disk.Crash(vfs.CrashOptions{})
	state, meta, err = memSnapshots(disk).load(200, meta.Term, meta.Hash)
	if err != nil || state.Hash() != meta.Hash {
		t.Fatalf("after a power cut: %v", err)
	}
	names, _ := disk.ReadDir("/data/snap")
	if len(names) != 1 {
		t.Fatalf("left over: %v", names)
	}
}

// Covers F2: each byte of a snapshot is covered; the error names the piece.
func TestSnapshotFlips(t *testing.T) {
	_, b := remote(t, 200)
	if len(b) < snapHeader+2*(snapBlock+blockHead) {
		t.Fatalf("snapshot of %d bytes has no two blocks", len(b))
	}
	piece := func(i int) int64 { // where the piece of a byte begins
		switch {
		case i < snapHeader:
			return 0
		case i >= len(b)-snapFooter:
			return int64(len(b) - snapFooter)
		case i >= len(b)-snapFooter-blockHead:
			return int64(len(b) - snapFooter - blockHead)
		}
		return int64(snapHeader + (i-snapHeader)/(snapBlock+blockHead)*(snapBlock+blockHead))
	}
	var places []int
	for i := range snapHeader {
		places = append(places, i)
	}
	for at := snapHeader; at < len(b)-snapFooter; at += snapBlock + blockHead {
		for i := range blockHead {
			places = append(places, min(at+i, len(b)-1))
		}
	}
	for i := len(b) - snapFooter - 2*blockHead; i < len(b); i++ {
		places = append(places, i)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		places = append(places, snapHeader+rng.IntN(len(b)-snapHeader))
	}
	for _, i := range places {
		bit := byte(1) << rng.IntN(8)
		b[i] ^= bit
		_, _, err := readSnapshot(b)
		b[i] ^= bit
		var damage *SnapshotError
		if !errors.As(err, &damage) || !errors.Is(err, wal.ErrCorrupt) {
			t.Fatalf("flip of bit %02x at %d: %v", bit, i, err)
		}
		// A length that is wrong may make the next piece the one that fails, or
		// reach behind the end.
		if want := piece(i); damage.Offset != want {
			t.Fatalf("flip of bit %02x at %d is reported at %d, want %d (%v)", bit, i, damage.Offset, want, err)
		}
	}
	for name, bad := range map[string][]byte{
		"empty":      {},
		"cut":        b[:len(b)-1],
		"cut header": b[:100],
		"cut block":  b[:snapHeader+snapBlock],
		"no end":     b[:len(b)-snapFooter-blockHead],
		"no sum":     b[:len(b)-snapFooter],
		"too long":   append(bytes.Clone(b), 0),
		"twice":      append(bytes.Clone(b), b...),
		"zero":       make([]byte, len(b)),
		"swapped":    swapBlocks(b),
	} {
		if _, _, err := readSnapshot(bad); !errors.Is(err, wal.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := readSnapshot(b); err != nil {
		t.Fatal(err)
	}
}

func swapBlocks(b []byte) []byte {
	const n = snapBlock + blockHead
	out := bytes.Clone(b)
	copy(out[snapHeader:], b[snapHeader+n:snapHeader+2*n])
	copy(out[snapHeader+n:], b[snapHeader:snapHeader+n])
	return out
}

// A header whose checksum is right is refused for its meaning, too.
func TestSnapshotHeaderNonsense(t *testing.T) {
	m, _ := remote(t, 5)
	for name, change := range map[string]func(b []byte){
		"magic":    func(b []byte) { b[0]++ },
		"version":  func(b []byte) { b[9]++ },
		"reserved": func(b []byte) { b[11]++ },
		"length":   func(b []byte) { b[14]++ },
		"index 0":  func(b []byte) { clear(b[32:40]) },
		"voters":   func(b []byte) { b[80] = 0xff },
		"tail":     func(b []byte) { b[snapHeader-5] = 1 },
	} {
		b := encodeSnapHeader(&m)
		change(b)
		sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(b[:snapHeader-4], castagnoli))
		copy(b[snapHeader-4:], sum)
		if _, _, err := decodeSnapHeader(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// The bytes may be right and still be no state, or another one.
func TestSnapshotOfNonsense(t *testing.T) {
	state := applyTruth(t, NewState(firstConfig()), 20)
	f := state.Freeze()
	good := SnapshotMeta{Cluster: f.Cluster(), Index: f.Index(), Term: f.Term(), Conf: f.Conf(), Hash: f.Hash()}
	build := func(m SnapshotMeta, fill func(w *snapWriter) error) []byte {
		var buf bytes.Buffer
		w, err := newSnapWriter(&buf, &m)
		if err == nil {
			err = fill(w)
		}
		if err == nil {
			_, _, err = w.end()
		}
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	encode := func(w *snapWriter) error { return f.Encode(w) }
	if _, _, err := readSnapshot(build(good, encode)); err != nil {
		t.Fatal(err)
	}
	other := func(change func(m *SnapshotMeta)) SnapshotMeta {
		m := good
		change(&m)
		return m
	}
	for name, b := range map[string][]byte{
		"nothing":    build(good, func(*snapWriter) error { return nil }),
		"text":       build(good, func(w *snapWriter) error { _, err := w.Write([]byte("no state")); return err }),
		"left over":  build(good, func(w *snapWriter) error { return errors.Join(f.Encode(w), second(w.Write([]byte{0}))) }),
		"index":      build(other(func(m *SnapshotMeta) { m.Index++ }), encode),
		"term":       build(other(func(m *SnapshotMeta) { m.Term++ }), encode),
		"cluster":    build(other(func(m *SnapshotMeta) { m.Cluster[0]++ }), encode),
		"hash":       build(other(func(m *SnapshotMeta) { m.Hash[0]++ }), encode),
		"conf":       build(other(func(m *SnapshotMeta) { m.Conf.Learners = []uint64{77} }), encode),
		"two states": build(good, func(w *snapWriter) error { return errors.Join(f.Encode(w), f.Encode(w)) }),
	} {
		if _, _, err := readSnapshot(b); !errors.Is(err, wal.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// What is written is read back from the disk before it counts.
func TestSnapshotIsReadBack(t *testing.T) {
	disk := vfs.NewMem()
	lie := vfs.Inject(disk, func(op vfs.Op) error {
		if op.Kind == vfs.OpReload && strings.HasSuffix(op.Path, writingSuffix) {
			flipFile(t, disk, op.Path, 5000)
		}
		return nil
	})
	s := memSnapshots(lie)
	if _, err := s.Write(t.Context(), applyTruth(t, NewState(firstConfig()), 30).Freeze()); !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("written: %v", err)
	}
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 0 {
		t.Fatalf("left over: %v", names)
	}
}

func flipFile(t testing.TB, m *vfs.Mem, name string, offset int64) {
	t.Helper()
	f, err := m.OpenFile(name, 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A write that ends before its time leaves nothing, and can be tried again.
func TestSnapshotIsCancelledOrFull(t *testing.T) {
	disk := vfs.NewMem()
	full := true
	s := memSnapshots(vfs.Inject(disk, func(op vfs.Op) error {
		if full && op.Kind == vfs.OpWrite {
			return &vfs.ShortWrite{N: 100, Err: syscall.ENOSPC}
		}
		return nil
	}))
	frozen := applyTruth(t, NewState(firstConfig()), 30).Freeze()
	if _, err := s.Write(t.Context(), frozen); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full disk: %v", err)
	}
	full = false
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Write(ctx, frozen); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 0 {
		t.Fatalf("left over: %v", names)
	}
	if meta, err := s.Write(t.Context(), frozen); err != nil || meta.Index != 30 {
		t.Fatal(meta, err)
	}
	// The same again is the same, and an older one is of no use.
	again, err := s.Write(t.Context(), applyTruth(t, NewState(firstConfig()), 20).Freeze())
	if err != nil || again.Index != 30 {
		t.Fatal(again, err)
	}
}

func TestSnapshotFileFindsDamage(t *testing.T) {
	disk := vfs.NewMem()
	s := memSnapshots(disk)
	if _, err := s.Write(t.Context(), applyTruth(t, NewState(firstConfig()), 200).Freeze()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(199); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	flipFile(t, disk, s.name(200), snapHeader+snapBlock+100)
	f, err := s.Open(200)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1000)
	for at := int64(0); ; at += int64(len(b)) {
		_, err := f.ReadAt(b, at)
		if err != nil {
			var damage *SnapshotError
			if !errors.As(err, &damage) || damage.Offset != snapHeader+snapBlock+blockHead {
				t.Fatalf("at %d: %v", at, err)
			}
			break
		}
		// Reading a piece again is no damage.
		if _, err := f.ReadAt(b[:500], at); err != nil {
			t.Fatal(err)
		}
	}
	meta := f.Meta()
	if meta.Index != 200 || f.Size() != meta.Size {
		t.Fatalf("%+v", meta)
	}
}
