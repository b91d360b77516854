package vfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel does for a sync cannot be seen without a power cut, but that
// it was asked can: it must tell when it cannot do it.

// A name is durable when Publish returns: it syncs the directory. With no
// descriptor left that must fail, for a rename alone needs none.
func TestNamesAreSynced(t *testing.T) {
	dir := t.TempDir()
	tmp := filepath.Join(dir, "tmp")
	if err := os.WriteFile(tmp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	err := OS.Publish(tmp, filepath.Join(dir, "final"))
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Fatalf("publish without a descriptor for the directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "final")); err != nil {
		t.Fatalf("what failed was not the sync: %v", err)
	}
}

// A pipe cannot be synced: whoever asks for it is told so.
func TestFilesAreSynced(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OS.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for what, sync := range map[string]func() error{"sync": f.Sync, "reload": f.Reload} {
		if err := sync(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s of a pipe: %v", what, err)
		}
	}
}
