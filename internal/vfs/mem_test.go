package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// dumbFile is the content of a file of Mem in the simplest way.
type dumbFile struct {
	seen, disk []byte
	dirty      map[int64]bool // sectors
}

func (d *dumbFile) touch(from, to int64) {
	for s := from / SectorBytes; s*SectorBytes < to; s++ {
		d.dirty[s] = true
	}
}

func (d *dumbFile) resize(size int64) {
	old := int64(len(d.seen))
	d.seen = dumbFit(d.seen, size)
	if old != size {
		d.touch(min(old, size), max(old, size))
	}
}

func (d *dumbFile) write(p []byte, off int64) {
	if end := off + int64(len(p)); end > int64(len(d.seen)) {
		d.resize(end)
	}
	copy(d.seen[off:], p)
	d.touch(off, off+int64(len(p)))
}

func (d *dumbFile) sync() {
	d.disk = bytes.Clone(d.seen)
	clear(d.dirty)
}

func (d *dumbFile) crash(o CrashOptions) *dumbFile {
	size := int64(len(d.disk))
	if int64(len(d.seen)) != size && o.hit(o.Sectors) {
		size = int64(len(d.seen))
	}
	disk := dumbFit(d.disk, size)
	for _, s := range slices.Sorted(maps.Keys(d.dirty)) {
		from := s * SectorBytes
		if !o.hit(o.Sectors) || from >= min(size, int64(len(d.seen))) {
			continue
		}
		to := min(from+SectorBytes, size, int64(len(d.seen)))
		if o.hit(o.Tear) {
			to = from + o.Rand.Int64N(to-from)
		}
		copy(disk[from:to], d.seen[from:to])
	}
	return &dumbFile{seen: bytes.Clone(disk), disk: disk, dirty: map[int64]bool{}}
}

func dumbFit(b []byte, size int64) []byte {
	fit := make([]byte, size)
	copy(fit, b)
	return fit
}

func mustMem(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openMem(t testing.TB, m *Mem, name string) File {
	t.Helper()
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	mustMem(t, err)
	mustMem(t, m.SyncDir("/"))
	return f
}

func content(t testing.TB, f File) []byte {
	t.Helper()
	size, err := f.Size()
	mustMem(t, err)
	b := make([]byte, size)
	_, err = io.ReadFull(io.NewSectionReader(f, 0, size), b)
	mustMem(t, err)
	return b
}

// A file of Mem does what the simplest one does, through any row of writes,
// resizes, syncs, flips and power cuts; a clone stays as it was made.
func TestMemIsAsTheDumbOne(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m, d := NewMem(), &dumbFile{dirty: map[int64]bool{}}
		f := openMem(t, m, "/f")
		clones := map[*Mem][]byte{}
		for step := range 150 {
			what := fmt.Sprintf("seed %d step %d", seed, step)
			size := int64(len(d.seen))
			switch rng.IntN(9) {
			default:
				p := make([]byte, 1+rng.IntN(3*pageBytes))
				if rng.IntN(3) > 0 {
					for i := range p {
						p[i] = byte(rng.Uint32())
					}
				}
				off := rng.Int64N(size + 1000)
				if rng.IntN(2) == 0 {
					off -= off % pageBytes
				}
				_, err := f.WriteAt(p, off)
				mustMem(t, err)
				d.write(p, off)
			case 4:
				n := rng.Int64N(size + 2*pageBytes)
				mustMem(t, f.Truncate(n))
				d.resize(n)
			case 5, 6:
				mustMem(t, f.Sync())
				d.sync()
			case 7:
				if size == 0 {
					continue
				}
				off := rng.Int64N(size)
				mustMem(t, m.Flip("/f", off, 0x10))
				d.seen[off] ^= 0x10
				if off < int64(len(d.disk)) {
					d.disk[off] ^= 0x10
				}
			case 8:
				draw := rng.Uint64()
				o := func() CrashOptions {
					return CrashOptions{Rand: rand.New(rand.NewPCG(draw, 2)), Sectors: 0.5, Tear: 0.3}
				}
				left := d.crash(o())
				clones[m.CrashClone(o())] = bytes.Clone(left.disk)
				if rng.IntN(2) == 0 {
					m.Crash(o())
					d, f = left, openMem(t, m, "/f")
				}
			}
			if got := content(t, f); !bytes.Equal(got, d.seen) {
				t.Fatalf("%s: content differs", what)
			}
			if m.Used() != int64(len(d.seen)) {
				t.Fatalf("%s: %d bytes used, want %d", what, m.Used(), len(d.seen))
			}
		}
		clones[m.CrashClone(CrashOptions{})] = d.disk
		for c, want := range clones {
			if got := content(t, openMem(t, c, "/f")); !bytes.Equal(got, want) {
				t.Fatalf("seed %d: a clone differs", seed)
			}
		}
	}
}

func TestMemCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(3 * SectorBytes)
	f := openMem(t, m, "/f")
	_, err := f.WriteAt(make([]byte, 2*SectorBytes), 0)
	mustMem(t, err)
	g := openMem(t, m, "/g")
	n, err := g.WriteAt(make([]byte, 2*SectorBytes), 0)
	if n != SectorBytes || !errors.Is(err, unix.ENOSPC) || m.Used() != 3*SectorBytes {
		t.Fatalf("wrote %d bytes, %v, %d used", n, err, m.Used())
	}
	if n, err := g.WriteAt(make([]byte, 1), 10*SectorBytes); n != 0 || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("wrote %d bytes behind the end, %v", n, err)
	}
	if size, err := g.Size(); err != nil || size != SectorBytes {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if err := g.Truncate(2 * SectorBytes); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("truncate: %v", err)
	}
	// Bytes that are there can be written on a full disk.
	_, err = f.WriteAt([]byte("again"), 5)
	mustMem(t, err)
	// A file gives its room back when it is closed and has no name.
	mustMem(t, m.Remove("/f"))
	if m.Used() != 3*SectorBytes {
		t.Fatalf("%d used while the file is open", m.Used())
	}
	mustMem(t, f.Close())
	if m.Used() != SectorBytes {
		t.Fatalf("%d used", m.Used())
	}
	_, err = g.WriteAt(make([]byte, 2*SectorBytes), SectorBytes)
	mustMem(t, err)
	// So does one that another takes the name of, and one left open by a
	// process that ended.
	h := openMem(t, m, "/h")
	mustMem(t, m.Publish("/h", "/g"))
	m.Exit()
	if m.Used() != 0 {
		t.Fatalf("%d used by %v", m.Used(), m.Names())
	}
	if _, err := h.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a handle outlived its process")
	}
}

func TestMemExit(t *testing.T) {
	m := NewMem()
	if _, err := m.Lock("/lock"); err != nil {
		t.Fatal(err)
	}
	f := openMem(t, m, "/f")
	_, err := f.WriteAt([]byte("not synced"), 0)
	mustMem(t, err)
	if _, err := m.Lock("/lock"); !errors.Is(err, ErrLocked) {
		t.Fatalf("lock: %v", err)
	}
	m.Exit()
	if _, err := m.Lock("/lock"); err != nil {
		t.Fatalf("lock of a process that ended: %v", err)
	}
	if got := content(t, openMem(t, m, "/f")); string(got) != "not synced" {
		t.Fatalf("%q", got)
	}
	m.Crash(CrashOptions{})
	if got := content(t, openMem(t, m, "/f")); len(got) != 0 {
		t.Fatalf("%q after a power cut", got)
	}
}

// After a sync that failed the data looks well, the next sync says that all is
// well, and the disk does not have it.
func TestMemForget(t *testing.T) {
	m := NewMem()
	f := openMem(t, m, "/f")
	_, err := f.WriteAt(bytes.Repeat([]byte("a"), 2*pageBytes), 0)
	mustMem(t, err)
	mustMem(t, f.Sync())
	_, err = f.WriteAt([]byte("b"), 10)
	mustMem(t, err)
	mustMem(t, m.Forget("/f"))
	if got := content(t, f); got[10] != 'b' {
		t.Fatalf("read %q", got[10])
	}
	mustMem(t, f.Sync())
	all := CrashOptions{Rand: rand.New(rand.NewPCG(1, 1)), Sectors: 1, Names: 1}
	if got := content(t, openMem(t, m.CrashClone(all), "/f")); got[10] != 'a' {
		t.Fatalf("on disk is %q", got[10])
	}
	mustMem(t, f.Reload())
	if got := content(t, f); got[10] != 'a' {
		t.Fatalf("read %q after a reload", got[10])
	}
}

func TestMemNamesAndWipe(t *testing.T) {
	m := NewMem()
	mustMem(t, m.MkdirAll("/data/wal", 0o700))
	for _, name := range []string{"/data/wal/b", "/data/wal/a", "/data/id", "/run"} {
		mustMem(t, m.WriteFile(name, []byte("x"), 0o600))
	}
	if got, want := m.Names(), []string{"/data/id", "/data/wal/a", "/data/wal/b", "/run"}; !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	if err := m.Flip("/data", 0, 1); err == nil {
		t.Error("a directory has no bytes")
	}
	if err := m.Flip("/run", 1, 1); err == nil {
		t.Error("there is no second byte")
	}
	mustMem(t, m.Wipe("/data"))
	m.Crash(CrashOptions{Rand: rand.New(rand.NewPCG(1, 1)), Sectors: 1, Names: 1})
	if got := m.Names(); !slices.Equal(got, []string{"/run"}) || m.Used() != 1 {
		t.Fatalf("%v, %d bytes", got, m.Used())
	}
}

// BenchmarkMem is the life of a segment of the log: filled with zeros, then
// written and synced in blocks of 4 KiB.
func BenchmarkMem(b *testing.B) {
	const size = 64 << 10
	zeros, block := make([]byte, size), bytes.Repeat([]byte("holdfast"), 512)
	b.Run("segment", func(b *testing.B) {
		m := NewMem()
		for b.Loop() {
			f, err := m.OpenFile("/f", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
			mustMem(b, err)
			_, err = f.WriteAt(zeros, 0)
			mustMem(b, err)
			for off := int64(0); off < size; off += int64(len(block)) {
				mustMem(b, f.WriteSync(block, off))
			}
			mustMem(b, f.Close())
		}
	})
	b.Run("crash", func(b *testing.B) {
		m := NewMem()
		for i := range 16 {
			f := openMem(b, m, fmt.Sprintf("/f%d", i))
			for off := int64(0); off < size; off += int64(len(block)) {
				mustMem(b, f.WriteSync(block, off))
			}
			_, err := f.WriteAt(block, 0)
			mustMem(b, err)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		for b.Loop() {
			m.CrashClone(CrashOptions{Rand: rng, Sectors: 0.5, Names: 0.5})
		}
	})
}
