package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// errShort is returned for bytes that end before the value they announce.
var errShort = errors.New("ends too early")

// encoder appends big-endian fields to b. Encoding never fails: the caller
// validates lengths first, and a value that cannot be written is an error of
// the program.
type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = binary.BigEndian.AppendUint16(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *encoder) raw(v []byte) { e.b = append(e.b, v...) }

func (e *encoder) bool(v bool) {
	if v {
		e.u8(1)
		return
	}
	e.u8(0)
}

// count writes the length of a list; lists are bounded far below 65536.
func (e *encoder) count(n int) {
	if n < 0 || n > math.MaxUint16 {
		panic(fmt.Sprintf("storage: list of %d does not fit its count", n))
	}
	e.u16(uint16(n))
}

func (e *encoder) bytes(v []byte) {
	e.count(len(v))
	e.raw(v)
}

func (e *encoder) str(v string) { e.bytes([]byte(v)) }

// decoder reads what encoder wrote. The first error sticks and every later
// read returns a zero value, so callers check once, at the end.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
		d.b = nil
	}
}

func (d *decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.b) {
		d.fail(errShort)
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) u8() uint8 {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if v := d.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// bool accepts only 0 and 1, so that one value has one encoding.
func (d *decoder) bool() bool {
	v := d.u8()
	if v > 1 {
		d.fail(fmt.Errorf("flag is %d, want 0 or 1", v))
	}
	return v == 1
}

// count reads a list length and refuses more than limit before anything is
// allocated for it.
func (d *decoder) count(limit int, what string) int {
	n := int(d.u16())
	if n > limit {
		d.fail(fmt.Errorf("%d %s, at most %d allowed", n, what, limit))
		return 0
	}
	return n
}

func (d *decoder) bytes(limit int, what string) []byte {
	n := d.count(limit, "bytes of "+what)
	return append([]byte(nil), d.take(n)...)
}

func (d *decoder) str(limit int, what string) string {
	n := d.count(limit, "bytes of "+what)
	return string(d.take(n))
}

// end returns the first error, or an error when bytes are left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) != 0 {
		return fmt.Errorf("%d bytes left over", len(d.b))
	}
	return d.err
}
