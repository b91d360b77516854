package storage

import (
	"errors"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Covers F2: the mark of a founding that has ended does not come back after a
// power cut; with it a log that is lost would pass for one that was never made.
func TestFoundingMarkIsGoneForGood(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	left := disk.CrashClone(vfs.CrashOptions{})
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if there, err := vfs.Exists(left, d.path(fileFounding)); err != nil || there {
		t.Fatalf("the mark is there: %v, %v", there, err)
	}
	names, err := left.ReadDir(d.path(dirLog))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := left.Remove(d.path(dirLog) + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	if err := left.Remove(d.path(dirLog)); err != nil {
		t.Fatal(err)
	}
	var damage *DamageError
	if _, err := OpenData(left, "/data"); !errors.As(err, &damage) {
		t.Fatalf("a founded node that lost its log opens: %v", err)
	}
}
