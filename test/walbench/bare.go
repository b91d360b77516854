package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bareBytes is the length of the file, which is full of zeros before the first
// write: what is measured then is the least that a log has to do, a write into
// blocks that exist and a sync that has no metadata to write. At the end of
// the file it begins again.
const bareBytes = 64 << 20

// bare is no log: it cannot be read back after a crash.
type bare struct {
	file   *os.File
	buf    []byte
	offset int64
}

func openBare(write int) func(dir string) (log, error) {
	return func(dir string) (log, error) {
		f, err := os.Create(filepath.Join(dir, "bare"))
		if err != nil {
			return nil, fmt.Errorf("create bare file: %w", err)
		}
		zeros := make([]byte, 1<<20)
		for at := int64(0); at < bareBytes && err == nil; at += int64(len(zeros)) {
			_, err = f.WriteAt(zeros, at)
		}
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			return nil, fmt.Errorf("fill bare file: %w", errors.Join(err, f.Close()))
		}
		return &bare{file: f, buf: make([]byte, write)}, nil
	}
}

// append writes the entries behind one another, up to whole writes.
func (b *bare) append(entries []entry) error {
	need := 0
	for i := range entries {
		need += len(entries[i].data)
	}
	need = (need + len(b.buf) - 1) / len(b.buf) * len(b.buf)
	if cap(b.buf) < need {
		grown := make([]byte, need)
		b.buf = grown[:len(b.buf)]
	}
	out := b.buf[:need]
	n := 0
	for i := range entries {
		n += copy(out[n:], entries[i].data)
	}
	if b.offset+int64(need) > bareBytes {
		b.offset = 0
	}
	if _, err := b.file.WriteAt(out, b.offset); err != nil {
		return err
	}
	b.offset += int64(need)
	return unix.Fdatasync(int(b.file.Fd()))
}

func (b *bare) shared() bool { return false }
func (b *bare) close() error { return b.file.Close() }

// replayBare reads files of a directory as a copy does: what the disk gives.
func replayBare(dir string, visit func([]byte)) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		for err == nil {
			var n int
			n, err = f.Read(buf)
			visit(buf[:n])
		}
		if cerr := f.Close(); !errors.Is(err, io.EOF) || cerr != nil {
			return errors.Join(err, cerr)
		}
	}
	return nil
}
