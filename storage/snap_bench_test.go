package storage

import (
	"fmt"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// bigState has a million keys with values of 256 bytes.
func bigState(b *testing.B) *State {
	s := NewState(firstConfig())
	value := make([]byte, 256)
	index := uint64(FirstIndex)
	for n := 0; n < 1_000_000; index++ {
		batch := &kv.Batch{Clock: int64(n), MaxBytes: kv.DefaultMaxBytes}
		for range 500 {
			copy(value, fmt.Sprint(n))
			batch.Requests = append(batch.Requests, kv.Request{Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: fmt.Sprintf("key-%09d", n), Value: value}}})
			n++
		}
		if _, err := s.Apply(index+1, 1, mustEncode(b, Batch{batch})); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// Writing a snapshot of a million keys, and reading it at a start.
func BenchmarkSnapshot(b *testing.B) {
	state := bigState(b)
	dir := b.TempDir()
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			s := newSnapshots(vfs.OS, dir)
			meta, err := s.Write(b.Context(), state.Freeze())
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(meta.Size)
		}
	})
	b.Run("freeze", func(b *testing.B) {
		for b.Loop() {
			state.Freeze()
		}
	})
	f := state.Freeze()
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s := newSnapshots(vfs.OS, dir)
			s.setCluster(f.Cluster())
			if _, _, err := s.load(f.Index(), f.Term(), f.Hash()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
