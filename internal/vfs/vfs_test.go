package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"
)

// each runs a test on the disk and in memory: what Mem does must be what the
// system does.
func each(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("OS", func(t *testing.T) { test(t, OS, t.TempDir()) })
	t.Run("Mem", func(t *testing.T) {
		m := NewMem()
		must(t, m.MkdirAll("/d", 0o700))
		test(t, m, "/d")
	})
	t.Run("Inject", func(t *testing.T) { test(t, Inject(OS, func(Op) error { return nil }), t.TempDir()) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, fsys FS, name, data string) File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(data), 0)
	must(t, err)
	return f
}

func get(t testing.TB, fsys FS, name string) string {
	t.Helper()
	b, err := ReadFile(fsys, name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "<none>"
	}
	must(t, err)
	return string(b)
}

func TestFile(t *testing.T) {
	each(t, func(t *testing.T, fsys FS, dir string) {
		name := path.Join(dir, "f")
		f := put(t, fsys, name, "hello")
		must(t, f.Sync())
		must(t, f.Reload())
		must(t, f.Truncate(3))
		must(t, f.Truncate(6))
		size, err := f.Size()
		if must(t, err); size != 6 || get(t, fsys, name) != "hel\x00\x00\x00" {
			t.Errorf("size %d, %q", size, get(t, fsys, name))
		}
		_, err = f.WriteAt([]byte("x"), 8)
		if must(t, err); get(t, fsys, name) != "hel\x00\x00\x00\x00\x00x" {
			t.Errorf("%q", get(t, fsys, name))
		}
		b := make([]byte, 4)
		if n, err := f.ReadAt(b, 7); n != 2 || !errors.Is(err, io.EOF) {
			t.Errorf("read past the end: %d, %v", n, err)
		}
		must(t, f.Close())
		if _, err := f.WriteAt(b, 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		if err := f.Sync(); err == nil {
			t.Error("sync after close")
		}
		f, err = fsys.OpenFile(name, os.O_RDONLY, 0)
		must(t, err)
		if _, err := f.WriteAt(b, 0); err == nil {
			t.Error("write to a file that was opened for reading")
		}
		must(t, f.Sync()) // works on such a file, too
		must(t, f.Close())
	})
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, fsys FS, dir string) {
		must(t, fsys.MkdirAll(path.Join(dir, "a/b/c"), 0o700))
		must(t, fsys.MkdirAll(path.Join(dir, "a/b/c"), 0o700))
		must(t, put(t, fsys, path.Join(dir, "z"), "1").Close())
		must(t, put(t, fsys, path.Join(dir, "y"), "2").Close())
		names, err := fsys.ReadDir(dir)
		if must(t, err); strings.Join(names, " ") != "a y z" {
			t.Errorf("names %v", names)
		}
		must(t, fsys.Publish(path.Join(dir, "z"), path.Join(dir, "y")))
		if got := get(t, fsys, path.Join(dir, "y")); got != "1" {
			t.Errorf("published %q", got)
		}
		must(t, fsys.Publish(path.Join(dir, "a"), path.Join(dir, "a.damaged")))
		if info, err := fsys.Stat(path.Join(dir, "a.damaged/b")); err != nil || !info.Dir {
			t.Errorf("directory set aside: %+v, %v", info, err)
		}
		if err := fsys.Publish(path.Join(dir, "y"), path.Join(dir, "a.damaged/y")); !errors.Is(err, ErrAcross) {
			t.Errorf("publish across directories: %v", err)
		}
		must(t, fsys.Remove(path.Join(dir, "y")))
		for what, err := range map[string]error{
			"remove": fsys.Remove(path.Join(dir, "y")),
			"stat":   second(fsys.Stat(path.Join(dir, "y"))),
			"open":   second(fsys.OpenFile(path.Join(dir, "y"), os.O_RDWR, 0)),
			"deep":   second(fsys.OpenFile(path.Join(dir, "no/y"), os.O_RDWR|os.O_CREATE, 0o600)),
			"list":   second(fsys.ReadDir(path.Join(dir, "no"))),
			"sync":   fsys.SyncDir(path.Join(dir, "no")),
			"rename": fsys.Publish(path.Join(dir, "no"), path.Join(dir, "no2")),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of nothing: %v", what, err)
			}
		}
		must(t, put(t, fsys, path.Join(dir, "x"), "").Close())
		if _, err := fsys.OpenFile(path.Join(dir, "x"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, fs.ErrExist) {
			t.Errorf("exclusive create: %v", err)
		}
		if err := fsys.MkdirAll(path.Join(dir, "x/y"), 0o700); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("directory below a file: %v", err)
		}
		if err := fsys.Remove(path.Join(dir, "a.damaged")); !errors.Is(err, syscall.ENOTEMPTY) {
			t.Errorf("remove of a full directory: %v", err)
		}
		if ok, err := Exists(fsys, path.Join(dir, "x")); !ok || err != nil {
			t.Errorf("exists: %v, %v", ok, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestWriteFile(t *testing.T) {
	each(t, func(t *testing.T, fsys FS, dir string) {
		name := path.Join(dir, "promise")
		must(t, fsys.WriteFile(name, []byte("500ms"), 0o640))
		must(t, fsys.WriteFile(name, []byte("2s"), 0o640))
		if got := get(t, fsys, name); got != "2s" {
			t.Errorf("content %q", got)
		}
		names, err := fsys.ReadDir(dir)
		if must(t, err); len(names) != 1 {
			t.Errorf("left over: %v", names)
		}
		if fsys == OS {
			if info, err := os.Stat(name); err != nil || info.Mode() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		}
		if _, err := ReadFile(fsys, name, 1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("read above the limit: %v", err)
		}
		if _, err := ReadFile(fsys, dir, 1<<20); err == nil {
			t.Error("read of a directory")
		}
	})
}

func TestLock(t *testing.T) {
	each(t, func(t *testing.T, fsys FS, dir string) {
		name := path.Join(dir, "lock")
		l, err := fsys.Lock(name)
		must(t, err)
		if _, err := fsys.Lock(name); !errors.Is(err, ErrLocked) {
			t.Errorf("second lock: %v", err)
		}
		must(t, l.Close())
		l, err = fsys.Lock(name)
		must(t, err)
		must(t, l.Close())
	})
}

// What was synced is there after a power cut; what was not is gone, contents and
// names each for themselves.
func TestMemCrash(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d", 0o700))
	synced := put(t, m, "/d/synced", "old")
	must(t, synced.Sync())
	must(t, m.SyncDir("/d"))
	_, err := synced.WriteAt([]byte("NEW and longer"), 0)
	must(t, err)
	must(t, m.MkdirAll("/d/sub", 0o700))
	must(t, put(t, m, "/d/named", "data").Sync())
	must(t, m.WriteFile("/d/written", []byte("whole"), 0o600))
	must(t, put(t, m, "/d/empty", "data").Close())
	must(t, m.SyncDir("/d"))
	must(t, put(t, m, "/d/unnamed", "data").Sync())
	lock, err := m.Lock("/d/lock")
	must(t, err)
	must(t, m.Remove("/d/written"))
	must(t, put(t, m, "/d/sub/f", "x").Sync())

	clone := m.CrashClone(CrashOptions{})
	m.Crash(CrashOptions{})
	for _, c := range []*Mem{m, clone} {
		for name, want := range map[string]string{
			"synced": "old", "named": "data", "unnamed": "<none>", "written": "whole", "empty": "",
			"sub/f": "<none>",
		} {
			if got := get(t, c, "/d/"+name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	if _, err := synced.WriteAt([]byte("x"), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a handle survives the crash: %v", err)
	}
	if err := lock.Close(); err == nil {
		t.Error("a lock survives the crash")
	}
	l, err := m.Lock("/d/lock")
	must(t, err)
	must(t, l.Close())
}

// A rename that was not followed by a directory sync may be undone, whole.
func TestMemCrashUndoesRename(t *testing.T) {
	m := NewMem()
	must(t, m.WriteFile("/final", []byte("old"), 0o600))
	must(t, m.WriteFile("/tmp", []byte("new"), 0o600))
	must(t, m.rename("/tmp", "/final"))
	lost := m.CrashClone(CrashOptions{})
	if a, b := get(t, lost, "/tmp"), get(t, lost, "/final"); a != "new" || b != "old" {
		t.Errorf("lost rename leaves %q, %q", a, b)
	}
	kept := m.CrashClone(CrashOptions{Names: 1, Rand: rand.New(rand.NewPCG(1, 1))})
	if a, b := get(t, kept, "/tmp"), get(t, kept, "/final"); a != "<none>" || b != "new" {
		t.Errorf("kept rename leaves %q, %q", a, b)
	}
}

// Part of what was not synced survives, sector by sector, the same for one seed.
func TestMemCrashInPart(t *testing.T) {
	const sectors = 64
	build := func() *Mem {
		m := NewMem()
		f := put(t, m, "/f", strings.Repeat("a", sectors*SectorBytes))
		must(t, f.Sync())
		must(t, m.SyncDir("/"))
		_, err := f.WriteAt(bytes.Repeat([]byte("b"), sectors*SectorBytes), 0)
		must(t, err)
		return m
	}
	crash := func(o CrashOptions) string {
		o.Rand = rand.New(rand.NewPCG(7, 7))
		return get(t, build().CrashClone(o), "/f")
	}
	half := crash(CrashOptions{Sectors: 0.5})
	if half != crash(CrashOptions{Sectors: 0.5}) {
		t.Error("one seed gives two outcomes")
	}
	count := func(s string) (old, new, torn int) {
		for i := 0; i < len(s); i += SectorBytes {
			switch strings.Trim(s[i:i+SectorBytes], "a") {
			case "":
				old++
			case strings.Repeat("b", SectorBytes):
				new++
			default:
				torn++
			}
		}
		return old, new, torn
	}
	if old, new, torn := count(half); old < 10 || new < 10 || torn != 0 {
		t.Errorf("half: %d old, %d new, %d torn", old, new, torn)
	}
	if old, new, torn := count(crash(CrashOptions{Sectors: 1, Tear: 1})); torn < sectors/2 || new != 0 {
		t.Errorf("torn: %d old, %d new, %d torn", old, new, torn)
	}
	if _, new, _ := count(crash(CrashOptions{Sectors: 1})); new != sectors {
		t.Errorf("all kept: %d new", new)
	}
}

func TestInjectEachKind(t *testing.T) {
	for kind := OpOpen; kind <= OpLock; kind++ {
		if strings.HasPrefix(kind.String(), "kind ") {
			t.Fatalf("kind %d has no name", kind)
		}
		m := NewMem()
		fsys := Inject(m, Nth(0, ErrInjected, func(op Op) bool { return op.Kind == kind }))
		if err := everything(fsys); !errors.Is(err, ErrInjected) {
			t.Errorf("%v: %v", kind, err)
		}
	}
	if err := everything(Inject(NewMem(), func(Op) error { return nil })); err != nil {
		t.Errorf("without an error: %v", err)
	}
}

// everything does one operation of each kind and stops at the first error.
func everything(fsys FS) error {
	if err := fsys.MkdirAll("/d", 0o700); err != nil {
		return err
	}
	f, err := fsys.OpenFile("/d/f", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.WriteAt([]byte("data"), 0)
	_, rerr := f.ReadAt(make([]byte, 4), 0)
	_, serr := fsys.Stat("/d/f")
	_, derr := fsys.ReadDir("/d")
	if err := errors.Join(werr, rerr, f.Sync(), f.Reload(), f.Truncate(2), f.Close(), serr, derr,
		fsys.Publish("/d/f", "/d/g"), fsys.WriteFile("/d/h", nil, 0o600), fsys.Remove("/d/g"), fsys.SyncDir("/d")); err != nil {
		return err
	}
	l, err := fsys.Lock("/d/l")
	if err != nil {
		return err
	}
	return l.Close()
}

func TestShortWrite(t *testing.T) {
	m := NewMem()
	short := &ShortWrite{N: 2, Err: syscall.ENOSPC}
	f, err := Inject(m, Nth(1, short, func(op Op) bool { return op.Kind == OpWrite })).OpenFile("/f", os.O_RDWR|os.O_CREATE, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("abcd"), 0)
	must(t, err)
	n, err := f.WriteAt([]byte("WXYZ"), 0)
	if n != 2 || !errors.Is(err, syscall.ENOSPC) || get(t, m, "/f") != "WXcd" {
		t.Errorf("short write: %d, %v, %q", n, err, get(t, m, "/f"))
	}
	must(t, f.Close())
}

// A failed directory sync leaves a rename that is done but not durable.
func TestInjectDirectorySyncOfPublish(t *testing.T) {
	m := NewMem()
	must(t, m.WriteFile("/tmp", []byte("new"), 0o600))
	fsys := Inject(m, Nth(0, ErrInjected, func(op Op) bool { return op.Kind == OpSyncDir }))
	if err := fsys.Publish("/tmp", "/final"); !errors.Is(err, ErrInjected) {
		t.Fatal(err)
	}
	if get(t, m, "/final") != "new" || get(t, m.CrashClone(CrashOptions{}), "/final") != "<none>" {
		t.Error("the rename is not done, or is durable")
	}
}
