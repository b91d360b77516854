package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// filePerm is the mode of segment files: entries may hold secrets of users.
const filePerm = 0o600

// zeros is what files are filled with, and synced after, one piece at a time.
var zeros [256 << 10]byte

// newSalt returns a random number that is not zero.
func newSalt() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails since Go 1.24
		if salt := binary.LittleEndian.Uint64(b[:]); salt != 0 {
			return salt
		}
	}
}

// createFilled makes a file of size zero bytes that are really on disk: a file
// that was only fallocate'd turns unwritten extents into written ones at each
// sync, which costs a journal commit (measured, RELIABILITY A4). It syncs piece
// by piece and calls pause, unless nil, after each: one sync of it all would
// hold up the syncs of batches on a slow disk for long.
func createFilled(fsys vfs.FS, name string, size int64, pause func() error) (vfs.File, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return nil, fmt.Errorf("create segment file: %w", err)
	}
	for offset := int64(0); offset < size && err == nil; offset += int64(len(zeros)) {
		if err = zeroFrom(f, offset, min(offset+int64(len(zeros)), size)); err == nil {
			err = f.Sync()
		}
		if err == nil && pause != nil {
			err = pause()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("fill segment file: %w", errors.Join(err, f.Close()))
	}
	return f, nil
}

// zeroFrom writes zeros from offset to size.
func zeroFrom(f vfs.File, offset, size int64) error {
	for offset < size {
		n := min(size-offset, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:n], offset); err != nil {
			return err
		}
		offset += n
	}
	return nil
}

// publishSegment writes the header into a file of the right size, syncs it and
// gives it its name. From then on the segment is part of the log.
func publishSegment(fsys vfs.FS, dir string, f vfs.File, tmp string, h *header) (uint32, error) {
	block, crc := h.encode()
	if _, err := f.WriteAt(block, 0); err != nil {
		return 0, fmt.Errorf("write segment header: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync segment header: %w", err)
	}
	if err := fsys.Publish(tmp, path.Join(dir, segmentName(h.sequence))); err != nil {
		return 0, fmt.Errorf("publish segment: %w", err)
	}
	return crc, nil
}

// sealRecord ends a segment: it names the next one.
func sealRecord(next *header, crc uint32) Record {
	payload := binary.LittleEndian.AppendUint32(nil, crc)
	return Record{Type: TypeSeal, Index: next.sequence, Term: next.salt, Payload: payload}
}

// sealCRC returns the header checksum that a seal names.
func sealCRC(seal *Record) uint32 {
	if len(seal.Payload) != 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(seal.Payload)
}
