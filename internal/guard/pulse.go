package guard

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// pulse is the worker's heartbeat: one word of shared memory that holds the
// boot time of the last turn of its loop. Both processes read the same clock.
// The guard looks only when the worker could be overdue, so that neither side
// wakes the other many times a second for nothing.
type pulse struct {
	mem []byte
}

const pulseBytes = 4096

// newPulse makes the memory, and the file through which the worker maps it.
func newPulse() (*pulse, *os.File, error) {
	fd, err := unix.MemfdCreate("holdfast-pulse", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("make pulse: %w", err)
	}
	f := os.NewFile(uintptr(fd), "pulse")
	if err := unix.Ftruncate(fd, pulseBytes); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("make pulse: %w", err)
	}
	p, err := mapPulse(fd)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return p, f, nil
}

func mapPulse(fd int) (*pulse, error) {
	mem, err := unix.Mmap(fd, 0, pulseBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map pulse: %w", err)
	}
	return &pulse{mem: mem}, nil
}

// word is aligned: mappings begin at a page.
func (p *pulse) word() *int64 { return (*int64)(unsafe.Pointer(&p.mem[0])) }

// beat says that the loop turns.
func (p *pulse) beat() { atomic.StoreInt64(p.word(), clock.Boottime()) }

// last is when the loop turned last, 0 before the first time.
func (p *pulse) last() int64 { return atomic.LoadInt64(p.word()) }

func (p *pulse) close() error { return unix.Munmap(p.mem) }
