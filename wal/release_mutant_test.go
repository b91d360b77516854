package wal

import (
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// What Release has removed does not come back after a power cut: the room on
// the disk was counted on.
func TestReleaseIsDurable(t *testing.T) {
	d := newDisk(t)
	l := mustCreate(t, d.opts)
	d.fill(l, 1, 40, 100) // six to a segment
	if err := l.Release(30); err != nil {
		t.Fatal(err)
	}
	left := d.mem.CrashClone(vfs.CrashOptions{})
	mustClose(t, l)
	names, err := left.ReadDir(d.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if sequence, ok := parseSegmentName(name); ok && sequence < l.w.oldest {
			t.Errorf("%s is back, the log begins with %s", name, segmentName(l.w.oldest))
		}
	}
}
