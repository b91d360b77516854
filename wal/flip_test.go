package wal

import (
	"errors"
	"testing"
)

// Every byte of a segment header is covered by its checksum, used or not.
func TestFlipEveryHeaderByte(t *testing.T) {
	d := newDisk(t)
	d.build(3, 10)
	block := d.read(1)[:headerBytes]
	for i := range block {
		for _, bit := range []byte{0x01, 0x80} {
			block[i] ^= bit
			if _, _, err := decodeHeader(block); err == nil {
				t.Errorf("flip of bit %02x of byte %d of a segment header is not seen", bit, i)
			}
			block[i] ^= bit
		}
	}
	for _, i := range []int64{0, 8, 10, 12, 20, 40, 64, 100, 120, 4000, 4095} {
		d.flip(1, i)
		if _, _, err := Open(d.opts, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("open with byte %d of the header flipped: %v", i, err)
		}
		d.flip(1, i)
	}
}

// A header that is right but for its meaning is refused, too.
func TestHeaderNonsense(t *testing.T) {
	for name, change := range map[string]func(*header){
		"size 0":            func(h *header) { h.size = 0 },
		"size not of 4096":  func(h *header) { h.size++ },
		"size above limit":  func(h *header) { h.size = maxSegmentBytes + blockBytes },
		"size of the moon":  func(h *header) { h.size = 1 << 63 },
		"size of another":   func(h *header) { h.size += blockBytes },
		"sequence 0":        func(h *header) { h.sequence = 0 },
		"sequence 2":        func(h *header) { h.sequence = 2 },
		"oldest 0":          func(h *header) { h.oldest = 0 },
		"oldest after self": func(h *header) { h.oldest = 2 },
		"salt 0":            func(h *header) { h.salt = 0 },
		"first batch 0":     func(h *header) { h.first = 0 },
		"first batch 2":     func(h *header) { h.first = 2 }, // batch 1 has another tag
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			d.build(3, 10)
			d.reheader(1, change)
			if _, _, err := Open(d.opts, nil); !errors.Is(err, ErrCorrupt) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

// Covers F3: a flip of any byte of the last batch loses that batch and no other,
// with the verdict that its place demands; in any other batch it is corruption.
func TestFlipEveryBatchByte(t *testing.T) {
	d := newDisk(t)
	d.build(3, 200)
	buf := d.read(1)
	head, crc, err := decodeHeader(buf[:headerBytes])
	if err != nil {
		t.Fatal(err)
	}
	end := func() (int, *ending) {
		sc := newScanner(buf, head, crc)
		for n := 0; ; n++ {
			if _, end := sc.next(); end != nil {
				return n, end
			}
		}
	}
	for index, last := range map[uint64]bool{2: false, 3: true} {
		b := d.batches[index]
		for i := b.offset; i < b.offset+b.bytes; i++ {
			buf[i] ^= 0x04
			n, got := end()
			buf[i] ^= 0x04
			want := Corrupt
			if last && i%sectorBytes >= sectorData {
				want = TornTail
			}
			if got.verdict != want || n != int(index)-1 {
				t.Fatalf("flip at %d of batch %d: %v after %d batches (%s), want %v",
					i-b.offset, index, got.verdict, n, got.why, want)
			}
		}
	}
}

// The detector of durable bytes has a test of its own: it was off for long in
// another log without anybody noticing.
func TestEvidence(t *testing.T) {
	d := newDisk(t)
	d.build(3, 100)
	buf := d.read(1)
	head, crc, err := decodeHeader(buf[:headerBytes])
	if err != nil {
		t.Fatal(err)
	}
	sc := newScanner(buf, head, crc)
	if _, end := sc.next(); end != nil {
		t.Fatal(end)
	}
	if _, ok := sc.evidence(); !ok {
		t.Error("batch 3 promises that batch 2 was durable, which is not seen")
	}
	if _, end := sc.next(); end != nil {
		t.Fatal(end)
	}
	if _, ok := sc.evidence(); ok {
		t.Error("the last batch promises nothing of itself")
	}
	sc.head.salt++
	sc.offset = headerBytes
	if _, ok := sc.evidence(); ok {
		t.Error("frames of another salt are no evidence")
	}
	// A frame in another place, as a payload may hold, is none.
	b := d.batches[3]
	moved := append([]byte(nil), buf...)
	copy(moved[5*blockBytes:], buf[b.offset:b.offset+blockBytes])
	clear(moved[b.offset : b.offset+blockBytes])
	sc = newScanner(moved, head, crc)
	sc.offset, sc.number = d.batches[2].offset, 2
	if at, ok := sc.evidence(); ok {
		t.Errorf("a copied frame at data byte %d is no evidence", at)
	}
	if !newScanner(make([]byte, minSegmentBytes), head, crc).untouched() {
		t.Error("a segment of zeros was not touched")
	}
	if newScanner(buf, head, crc).untouched() {
		t.Error("a segment with batches was touched")
	}
}
