package sim

import (
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// disk is the disk of one host and the faults that it has at present.
type disk struct {
	h   *host
	mem *vfs.Mem
	rnd *rand.Rand

	base      int64 // usual time of a sync, ns
	slow      int   // faults that make it slow
	slowBy    int64
	hangUntil int64
	failSync  bool // the next sync of the log fails, once
	failWrite bool // the next write of the log fails, once
	trapOps   int
	trap      func() // what happens at the trapOps'th change from now
}

func newDisk(h *host) *disk {
	d := &disk{h: h, mem: vfs.NewMem(), rnd: stream(h.w.seed, "disk "+h.name)}
	d.base = span(d.rnd, 60*time.Microsecond, 2500*time.Microsecond)
	return d
}

// latency draws how long a write and sync of the log takes that begins at t.
func (d *disk) latency(t int64) int64 {
	l := d.base/2 + d.rnd.Int64N(d.base)
	if d.rnd.Uint32()>>26 == 0 { // one in 64: the disk cleans up
		l += d.rnd.Int64N(8 * d.base)
	}
	if d.slow > 0 {
		l += d.slowBy/2 + d.rnd.Int64N(d.slowBy)
	}
	if d.hangUntil > t {
		l += d.hangUntil - t
	}
	return l
}

// open gives a process the file system.
func (d *disk) open(p *process) vfs.FS {
	return vfs.Inject(d.mem, func(op vfs.Op) error { return d.before(p, op) })
}

var errGone = errors.New("operation of a process that is dead")

// before is called ahead of each operation.
func (d *disk) before(p *process, op vfs.Op) error {
	if p.dead {
		return errGone
	}
	if !op.Kind.Changes() {
		return nil
	}
	if d.trap != nil {
		if d.trapOps--; d.trapOps < 0 {
			then := d.trap
			d.trap = nil
			panic(trapped{then})
		}
	}
	log := strings.Contains(op.Path, "/wal")
	switch {
	case log && op.Kind == vfs.OpSync && d.failSync:
		d.failSync = false
		d.failed(p, "sync", op)
		if chance(d.rnd, 0.7) {
			_ = d.mem.Forget(op.Path) // the kernel takes it for clean, and it is not on the disk
		}
		return syscall.EIO
	case log && op.Kind == vfs.OpWrite && d.failWrite:
		d.failWrite = false
		d.failed(p, "write", op)
		return &vfs.ShortWrite{N: d.rnd.IntN(op.Length + 1), Err: syscall.EIO}
	}
	return nil
}

func (d *disk) failed(p *process, what string, op vfs.Op) {
	d.h.w.note("%s disk: %s fails: %v", d.h.name, what, op)
	p.failedAt = max(p.cursor, d.h.w.now)
}

// crash leaves on the disk what a power cut leaves.
func (d *disk) crash() {
	o := vfs.CrashOptions{Rand: d.rnd}
	switch d.rnd.IntN(4) {
	case 0: // nothing that was not synced
	case 1:
		o.Sectors, o.Names = 0.5, 0.5
	case 2:
		o.Sectors, o.Names, o.Tear = 0.9, 0.9, 0.2
	case 3:
		o.Sectors, o.Names = d.rnd.Float64(), d.rnd.Float64()
	}
	d.mem.Crash(o)
	d.trap, d.failSync, d.failWrite = nil, false, false
}

// wipe puts in a new disk.
func (d *disk) wipe() { d.mem = vfs.NewMem() }
