package vfs

import (
	"bytes"
	"math/bits"
	"slices"
)

// pageBytes is the length of a memPage: eight sectors, one byte of a memData's
// dirty bits.
const pageBytes = 8 * SectorBytes

type memPage [pageBytes]byte

var zeroPage memPage

// memData is the content of a file as seen and as on disk. A page that is nil
// is all zeros, so files full of zeros cost little.
//
// Invariants: a page that is on disk is never written again, since both sides,
// and other file systems made by CrashClone, may hold it; what a page holds
// behind the end of the file is zero; where no sector of a page is dirty, both
// sides are the same, unless forget was called.
type memData struct {
	seen, disk   []*memPage
	size, onDisk int64    // bytes
	dirty        []uint64 // a bit for each sector that is not synced
	low, high    int      // all words of dirty that are not zero are in [low, high)
	forgot       bool     // forget was called since the last reload
}

func pagesOf(size int64) int { return int((size + pageBytes - 1) / pageBytes) }

// read fills p with what is at off; the file must be long enough.
func (d *memData) read(p []byte, off int64) {
	for len(p) > 0 {
		n := 0
		if page := d.seen[off/pageBytes]; page != nil {
			n = copy(p, page[off%pageBytes:])
		} else {
			n = int(min(int64(len(p)), pageBytes-off%pageBytes))
			clear(p[:n])
		}
		p, off = p[n:], off+int64(n)
	}
}

// write puts p at off; the file must be long enough.
func (d *memData) write(p []byte, off int64) {
	d.touch(off, off+int64(len(p)))
	for len(p) > 0 {
		i, at := int(off/pageBytes), off%pageBytes
		piece := p[:min(int64(len(p)), pageBytes-at)]
		whole := len(piece) == pageBytes
		switch {
		case (whole || d.seen[i] == nil) && bytes.Equal(piece, zeroPage[:len(piece)]):
			d.seen[i] = nil
		case whole && d.onDiskToo(i):
			page := memPage(piece)
			d.seen[i] = &page
		default:
			copy(d.own(i)[at:], piece)
		}
		p, off = p[len(piece):], off+int64(len(piece))
	}
}

// onDiskToo tells whether the page i as seen must not be written.
func (d *memData) onDiskToo(i int) bool {
	return d.seen[i] == nil || i < len(d.disk) && d.disk[i] == d.seen[i]
}

// own returns the page i as seen, for writing.
func (d *memData) own(i int) *memPage {
	if d.onDiskToo(i) {
		d.seen[i] = copyPage(d.seen[i])
	}
	return d.seen[i]
}

func copyPage(page *memPage) *memPage {
	if page == nil {
		return new(memPage)
	}
	fresh := *page
	return &fresh
}

// touch marks the sectors of [from, to) as not synced.
func (d *memData) touch(from, to int64) {
	if from >= to {
		return
	}
	first, last := int(from/SectorBytes), int((to-1)/SectorBytes)
	if need := last/64 + 1; need > len(d.dirty) {
		d.dirty = append(d.dirty, make([]uint64, need-len(d.dirty))...)
	}
	if d.low == d.high {
		d.low, d.high = first/64, first/64
	}
	d.low, d.high = min(d.low, first/64), max(d.high, last/64+1)
	for w := first / 64; w <= last/64; w++ {
		mask := ^uint64(0)
		if w == first/64 {
			mask <<= first % 64
		}
		if w == last/64 {
			mask &= ^uint64(0) >> (63 - last%64)
		}
		d.dirty[w] |= mask
	}
}

// clean marks all sectors as synced.
func (d *memData) clean() {
	clear(d.dirty[d.low:d.high])
	d.low, d.high = 0, 0
}

// resize changes the length; what is added reads as zero.
func (d *memData) resize(size int64) {
	old := d.size
	if i, at := int(size/pageBytes), size%pageBytes; size < old && at != 0 && d.seen[i] != nil {
		clear(d.own(i)[at:])
	}
	d.seen, d.size = fitPages(d.seen, pagesOf(size)), size
	d.touch(min(old, size), max(old, size))
}

// fitPages returns pages with length n, nil where it grew.
func fitPages(pages []*memPage, n int) []*memPage {
	if n > len(pages) {
		return append(pages, make([]*memPage, n-len(pages))...)
	}
	clear(pages[n:])
	return pages[:n]
}

func (d *memData) sync() {
	d.disk, d.onDisk = fitPages(d.disk, len(d.seen)), d.size
	for w := d.low; w < d.high; w++ {
		for word, i := d.dirty[w], w*8; word != 0; word, i = word>>8, i+1 {
			if word&0xff != 0 && i < len(d.disk) {
				d.disk[i] = d.seen[i]
			}
		}
	}
	d.clean()
}

// forget makes what is not synced clean without writing it.
func (d *memData) forget() {
	d.clean()
	d.forgot = true
}

// reload makes the file as seen what is on disk. The caller has synced it.
func (d *memData) reload() {
	if d.forgot {
		d.seen, d.size, d.forgot = slices.Clone(d.disk), d.onDisk, false
	}
}

// flip changes bits of the byte at off, as seen and on disk.
func (d *memData) flip(off int64, mask byte) {
	i, at := int(off/pageBytes), off%pageBytes
	onDisk := off < d.onDisk
	same := onDisk && d.disk[i] == d.seen[i]
	if onDisk {
		d.disk[i] = copyPage(d.disk[i])
		d.disk[i][at] ^= mask
	}
	if same {
		d.seen[i] = d.disk[i]
	} else {
		d.own(i)[at] ^= mask
	}
}

// crash returns what a power cut leaves.
func (d *memData) crash(o CrashOptions) memData {
	size := d.onDisk
	if d.size != size && o.hit(o.Sectors) {
		size = d.size
	}
	disk := fitPages(slices.Clone(d.disk), pagesOf(size))
	if at := size % pageBytes; size < d.onDisk && at != 0 {
		i := len(disk) - 1
		disk[i] = copyPage(disk[i])
		clear(disk[i][at:])
	}
	fresh := -1 // the page of disk that is a new one
	for w := d.low; w < d.high; w++ {
		for word := d.dirty[w]; word != 0; word &= word - 1 {
			from := int64(w*64+bits.TrailingZeros64(word)) * SectorBytes
			if !o.hit(o.Sectors) || from >= min(size, d.size) {
				continue
			}
			to := min(from+SectorBytes, size, d.size)
			if o.hit(o.Tear) {
				to = from + o.Rand.Int64N(to-from)
			}
			i := int(from / pageBytes)
			if i != fresh {
				disk[i], fresh = copyPage(disk[i]), i
			}
			base := int64(i) * pageBytes
			d.read(disk[i][from-base:to-base], from)
		}
	}
	return memData{seen: slices.Clone(disk), disk: disk, size: size, onDisk: size}
}
