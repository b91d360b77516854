package wal

import (
	"encoding/binary"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// FuzzSegment reads segments of any bytes: nothing panics, nothing is allocated
// by a length that was not checked, and what Verify accepts, Open accepts, and
// goes on with. The fuzzer cannot make checksums, so repair sets some of them
// right: bit 0 that of the header, bit 1 those of the frames in the first
// blocks, bit 2 the tags.
func FuzzSegment(f *testing.F) {
	d := newDisk(f)
	d.build(5, 100)
	whole := d.read(1)
	// A log of five batches, which is clean.
	f.Add(whole, uint8(0))
	// Only a header: what Create leaves.
	f.Add(whole[:headerBytes], uint8(0))
	// An empty file, and one that ends in its header.
	f.Add([]byte{}, uint8(0))
	f.Add(whole[:100], uint8(0))
	// A batch frame with the largest length, behind a right checksum: it must
	// be held against the rest of the file.
	huge := append([]byte(nil), whole...)
	binary.LittleEndian.PutUint32(huge[headerBytes+4:], 1<<32-1)
	f.Add(huge, uint8(3))
	// A record of the largest length in a good batch.
	huge = append([]byte(nil), whole...)
	binary.LittleEndian.PutUint32(huge[headerBytes+frameBytes+4:], 1<<32-1)
	f.Add(huge, uint8(3))
	// More records than fit.
	huge = append([]byte(nil), whole...)
	binary.LittleEndian.PutUint32(huge[headerBytes+36:], 1<<32-1)
	f.Add(huge, uint8(3))
	// A torn batch: its second sector is not there.
	torn := append([]byte(nil), whole...)
	clear(torn[headerBytes+4*blockBytes+sectorBytes:][:sectorBytes])
	f.Add(torn, uint8(0))
	// A type that only a batch may have, in a record.
	odd := append([]byte(nil), whole...)
	odd[headerBytes+frameBytes+8] = TypeBatch
	f.Add(odd, uint8(7))
	// A seal in the middle, and a release of everything.
	for _, typ := range []uint8{TypeSeal, TypeRelease, TypeTruncate} {
		odd = append([]byte(nil), whole...)
		odd[headerBytes+2*blockBytes+frameBytes+8] = typ
		odd[headerBytes+2*blockBytes+frameBytes+24] = 9
		f.Add(odd, uint8(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, repair uint8) {
		buf := make([]byte, minSegmentBytes)
		copy(buf, data)
		mend(buf, repair)
		mem := vfs.NewMem()
		d := &disk{t: t, mem: mem, opts: testOptions(mem)}
		if err := mem.MkdirAll(testDir, 0o700); err != nil {
			t.Fatal(err)
		}
		d.write(1, 0, buf)
		items := 0
		rec, err := Inspect(mem, testDir, func(Item) error { items++; return nil })
		if (err == nil) != (rec.Verdict == Clean || rec.Verdict == TornTail) {
			t.Fatalf("verdict %v with error %v", rec.Verdict, err)
		}
		h, _, _ := decodeHeader(buf[:headerBytes])
		if err != nil || h.node != d.opts.Node || h.cluster != d.opts.Cluster {
			return
		}
		l, opened, err := Open(d.opts, nil)
		if err != nil || opened.Verdict != rec.Verdict || opened.LastIndex != rec.LastIndex {
			t.Fatalf("open %+v, %v, verify %+v", opened, err, rec)
		}
		if err := appendWait(l, entry(1, 10)); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		if again, err := Verify(mem, testDir); err != nil || again.Verdict != Clean {
			t.Fatalf("after an append: %+v, %v", again, err)
		}
	})
}

// mend sets checksums and tags right as repair says.
func mend(buf []byte, repair uint8) {
	le := binary.LittleEndian
	if repair&1 != 0 {
		le.PutUint32(buf[headerBytes-4:], checksum(buf[:headerBytes-4]))
	}
	salt, first := le.Uint64(buf[64:]), le.Uint64(buf[104:])
	for i := int64(0); i < 4; i++ {
		block := buf[headerBytes+i*blockBytes:][:blockBytes]
		if repair&4 != 0 {
			for s := 0; s < blockBytes; s += sectorBytes {
				le.PutUint32(block[s+sectorData:], tagOf(salt, first+uint64(i)))
			}
		}
		if repair&2 == 0 {
			continue
		}
		base := position(headerBytes + i*blockBytes)
		le.PutUint32(block[frameBytes:], frameChecksum(block[frameBytes:2*frameBytes], base+frameBytes))
		le.PutUint32(block[12:], checksum(unstripe(block)[frameBytes:]))
		le.PutUint32(block, frameChecksum(block[:frameBytes], base))
	}
}
