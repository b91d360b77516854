package netfence

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// region is an array map's own memory, the very words that the programs read.
// A word is read and written whole; a map update by system call copies bytes
// and promises no order between words.
type region struct{ b []byte }

// mapRegion maps size bytes of an array map's values.
func mapRegion(m *ebpf.Map, size int) (*region, error) {
	page := unix.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, explain("map gate memory", err)
	}
	return &region{b}, nil
}

func (r *region) word(off uintptr) *uint64 {
	if off%8 != 0 {
		panic(fmt.Sprintf("netfence: word at offset %d", off))
	}
	return (*uint64)(unsafe.Pointer(&r.b[off : off+8][0]))
}

func (r *region) load(off uintptr) uint64     { return atomic.LoadUint64(r.word(off)) }
func (r *region) store(off uintptr, v uint64) { atomic.StoreUint64(r.word(off), v) }

// update replaces a word and skips the write when nothing changes.
func (r *region) update(off uintptr, v uint64) {
	if r.load(off) != v {
		r.store(off, v)
	}
}

func (r *region) close() error {
	if r == nil || r.b == nil {
		return nil
	}
	b := r.b
	r.b = nil
	return unix.Munmap(b)
}
