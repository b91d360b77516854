package storage

import (
	"errors"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Covers F2: a power cut while data are set aside never leaves a raft id that
// others know with a log that shrank.
func TestSetAsideCutShort(t *testing.T) {
	boom := errors.New("power cut")
	for n := int64(1); ; n++ {
		disk := vfs.NewMem()
		d, l := founded(t, disk)
		id := d.RaftID()
		if err := errors.Join(l.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		cut := vfs.Inject(disk, vfs.Nth(n, boom, func(o vfs.Op) bool { return o.Kind.Changes() }))
		_, err := SetAside(cut, "/data", "then")
		if err == nil {
			if n < 4 {
				t.Fatalf("setting aside took %d steps", n)
			}
			return
		}
		disk.Crash(vfs.CrashOptions{})
		again, err := OpenData(disk, "/data")
		var damage *DamageError
		if errors.As(err, &damage) {
			continue // the operator, or the next start, sets aside what is left
		}
		if err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		if _, there := again.First(); again.RaftID() == id && !there {
			t.Fatalf("step %d: raft id %x is there, and nothing of its log", n, id)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
