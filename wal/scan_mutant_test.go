package wal

import "testing"

// atEnd returns a scanner over a segment of n batches, at their end.
func atEnd(t *testing.T, n uint64) *scanner {
	t.Helper()
	d := newDisk(t)
	d.build(n, 100)
	buf := d.read(1)
	head, crc, err := decodeHeader(buf[:headerBytes])
	if err != nil {
		t.Fatal(err)
	}
	sc := newScanner(buf, head, crc)
	for range n {
		if _, end := sc.next(); end != nil {
			t.Fatal(end)
		}
	}
	return sc
}

// What a file has held in another life is no part of this log, even if its
// numbers fit: sectors are told apart by the salt.
func TestBatchOfAnotherSaltIsNone(t *testing.T) {
	sc := atEnd(t, 3)
	for name, salt := range map[string]uint64{"own": sc.head.salt, "other": sc.head.salt + 1} {
		var enc encoder
		out, _ := enc.encode([]Record{entry(4, 100)}, place{salt: salt, number: sc.number, offset: sc.offset, synced: sc.offset, prev: sc.prev})
		again := *sc
		again.buf = append([]byte(nil), sc.buf...)
		copy(again.buf[sc.offset:], out)
		b, end := again.next()
		if own := name == "own"; own != (b != nil) || !own && end.verdict != Clean {
			t.Errorf("%s salt: batch %v, %+v", name, b != nil, end)
		}
	}
}

// A length is held against the rest of the file before anything is done by it.
func TestLengthPastTheSegment(t *testing.T) {
	sc := atEnd(t, 3)
	for _, length := range []uint32{uint32(len(sc.buf)), 1 << 30, 1<<32 - 1} {
		data := make([]byte, blockData)
		f := frame{length: length, typ: TypeBatch, salt: sc.head.salt, index: sc.number, synced: uint64(sc.offset), term: uint64(sc.prev) | 1<<32}
		f.encode(data, position(sc.offset))
		again := *sc
		again.buf = append([]byte(nil), sc.buf...)
		stripe(again.buf[sc.offset:sc.offset+blockBytes], data, tagOf(sc.head.salt, sc.number))
		if b, end := again.next(); b != nil || end.verdict != Corrupt {
			t.Errorf("length %d: batch %v, %+v", length, b != nil, end)
		}
	}
}
