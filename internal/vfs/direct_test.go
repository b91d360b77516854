package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"testing"
	"unsafe"
)

// block returns DirectBytes times n bytes that begin shift bytes after a place
// that suits a direct write.
func block(n, shift int, fill byte) []byte {
	b := make([]byte, (n+1)*DirectBytes+shift)
	past := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % DirectBytes)
	b = b[(DirectBytes-past)%DirectBytes+shift:][:n*DirectBytes]
	for i := range b {
		b[i] = fill
	}
	return b
}

// Whatever way a synced write goes, the bytes are there, and other handles and
// buffered writes see them.
func TestWriteSync(t *testing.T) {
	each(t, func(t *testing.T, fsys FS, dir string) {
		name := path.Join(dir, "f")
		f := put(t, fsys, name, string(make([]byte, 8*DirectBytes)))
		must(t, f.Sync())
		want := make([]byte, 8*DirectBytes)
		write := func(b []byte, off int64) {
			t.Helper()
			must(t, f.WriteSync(b, off))
			copy(want[off:], b)
			if get(t, fsys, name) != string(want) {
				t.Errorf("%d bytes at %d do not come back", len(b), off)
			}
		}
		write(block(1, 0, 'a'), 0)
		write(block(2, 0, 'b'), 2*DirectBytes)
		write([]byte("odd"), 5)
		must(t, fsys.Publish(name, path.Join(dir, "g")))
		name = path.Join(dir, "g")
		write(block(1, 0, 'c'), 4*DirectBytes) // its name is another now
		_, err := f.WriteAt([]byte("buffered"), 4*DirectBytes)
		must(t, err)
		must(t, f.Sync())
		copy(want[4*DirectBytes:], "buffered")
		write(block(1, 0, 'd'), 5*DirectBytes)
		write(block(1, 3, 'e'), 6*DirectBytes) // memory that does not suit
		write(block(1, 0, 'f'), 7*DirectBytes)
		must(t, f.Close())
		if err := f.WriteSync(block(1, 0, 'x'), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		f, err = fsys.OpenFile(name, os.O_RDONLY, 0)
		must(t, err)
		if err := f.WriteSync(block(1, 0, 'x'), 0); err == nil {
			t.Error("write to a file that was opened for reading")
		}
		must(t, f.Close())
		if get(t, fsys, name) != string(want) {
			t.Error("a refused write changed the file")
		}
	})
}

func TestWriteSyncSurvivesCrash(t *testing.T) {
	m := NewMem()
	f := put(t, m, "/f", string(make([]byte, DirectBytes)))
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	must(t, f.WriteSync(block(1, 0, 'a'), 0))
	after := m.CrashClone(CrashOptions{})
	if get(t, after, "/f") != string(bytes.Repeat([]byte("a"), DirectBytes)) {
		t.Error("a synced write was lost")
	}
}

// An error of either half is an error of the whole.
func TestWriteSyncFails(t *testing.T) {
	for _, kind := range []Kind{OpWrite, OpSync} {
		armed := false
		fsys := Inject(NewMem(), func(op Op) error {
			if armed && op.Kind == kind {
				return ErrInjected
			}
			return nil
		})
		f := put(t, fsys, "/f", "")
		armed = true
		if err := f.WriteSync(block(1, 0, 'a'), 0); !errors.Is(err, ErrInjected) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}
