package wal

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Measured beside the logs of others by test/walbench, which make bench-wal
// runs; these are for work on this package. They measure the disk that TMPDIR
// is on.

func TestAddWordIsTheChecksumOfItsBytes(t *testing.T) {
	for _, before := range []string{"", "a", "some bytes before"} {
		for _, n := range []uint64{0, 1, 0x0102030405060708, 1 << 63, ^uint64(0)} {
			all := binary.LittleEndian.AppendUint64([]byte(before), n)
			if got, want := addWord(checksum([]byte(before)), n), checksum(all); got != want {
				t.Errorf("%q and %x: %08x, want %08x", before, n, got, want)
			}
		}
	}
}

// BenchmarkEncode is the part of an append that is not the disk's.
func BenchmarkEncode(b *testing.B) {
	for _, count := range []int{1, 256} {
		b.Run(fmt.Sprintf("records=%d", count), func(b *testing.B) {
			records := make([]Record, count)
			for i := range records {
				records[i] = Record{Type: 1, Index: uint64(i + 1), Term: 1, Payload: make([]byte, 256)}
			}
			var e encoder
			at := place{salt: 7, number: 1, offset: headerBytes, synced: headerBytes}
			b.ReportAllocs()
			for b.Loop() {
				at.number++
				e.encode(records, at)
			}
		})
	}
}

// BenchmarkReplay opens a log of full batches with records of 1 KiB, none of
// it in memory.
func BenchmarkReplay(b *testing.B) {
	const total = 64 << 20
	opts := testOptions(vfs.OS)
	opts.Dir = filepath.Join(b.TempDir(), "wal")
	opts.SegmentBytes = DefaultSegmentBytes
	l := mustCreate(b, opts)
	payload := make([]byte, 1024)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	records := make([]Record, maxBatchRecords)
	done := make(chan error, 1)
	for index := uint64(0); index < total/1024; {
		for i := range records {
			index++
			records[i] = Record{Type: 1, Index: index, Term: 1, Payload: payload}
		}
		l.Append(records, func(err error) { done <- err })
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(total)
	for b.Loop() {
		b.StopTimer()
		forget(b, opts.Dir)
		b.StartTimer()
		l, rec, err := Open(opts, func(Record) error { return nil })
		if err != nil || rec.Records != total/1024 {
			b.Fatal(rec.Records, err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// forget has the kernel drop what it has of the files of a directory.
func forget(b *testing.B, dir string) {
	b.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
