package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A trail on disk and on the wire:
//
//	"HFAUDIT1" | max bytes (8) | number before the first (8) | its hash (32) |
//	records (4) | per record: length (2), record
//
// Integers are big-endian. A stream ends with its last record.
const (
	streamMagic  = "HFAUDIT1"
	streamHeader = len(streamMagic) + 8 + 8 + sha256.Size + 4
)

// maxTrailBytes bounds what a trail may keep, and so what a decoder reads.
const maxTrailBytes = 1 << 30

// Encode writes the trail as Decode reads it.
func (t *Trail) Encode(w io.Writer) error {
	b := bufio.NewWriterSize(w, 64<<10)
	header := append(make([]byte, 0, streamHeader), streamMagic...)
	header = binary.BigEndian.AppendUint64(header, uint64(t.max))
	header = binary.BigEndian.AppendUint64(header, t.First()-1)
	header = append(header, t.anchor[:]...)
	header = binary.BigEndian.AppendUint32(header, uint32(len(t.records)))
	_, _ = b.Write(header) // the error sticks until Flush
	for _, r := range t.records {
		_, _ = b.Write(binary.BigEndian.AppendUint16(b.AvailableBuffer(), uint16(len(r))))
		_, _ = b.WriteString(r)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write audit trail: %w", err)
	}
	return nil
}

// Decode reads a trail up to the end of r, which must be the end of the trail,
// and verifies it. The error wraps a *TamperError when a record is not the one
// that was appended.
func Decode(r io.Reader) (*Trail, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	t, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("read audit trail: %w", noEOF(err))
	}
	if _, err := b.ReadByte(); err == nil {
		return nil, errors.New("read audit trail: bytes left over")
	} else if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read audit trail: %w", err)
	}
	return t, nil
}

func decode(r io.Reader) (*Trail, error) {
	var header [streamHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	magic, rest := header[:len(streamMagic)], header[len(streamMagic):]
	if string(magic) != streamMagic {
		return nil, fmt.Errorf("begins with %q, want %q", magic, streamMagic)
	}
	limit := binary.BigEndian.Uint64(rest)
	if limit == 0 || limit > maxTrailBytes {
		return nil, fmt.Errorf("keeps %d bytes, want 1 to %d", limit, maxTrailBytes)
	}
	t := &Trail{max: int(limit), seq: binary.BigEndian.Uint64(rest[8:])}
	copy(t.anchor[:], rest[16:])
	t.head = t.anchor
	if t.seq == 0 && t.anchor != [32]byte{} {
		return nil, &TamperError{Seq: 0, What: "a hash stands before the first record"}
	}
	count := binary.BigEndian.Uint32(rest[16+sha256.Size:])
	if count == 0 && t.seq != 0 {
		return nil, &TamperError{Seq: t.seq, What: "the newest record is missing"}
	}
	for range count {
		if err := t.decodeRecord(r); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// decodeRecord reads the next record of the stream and checks it.
func (t *Trail) decodeRecord(r io.Reader) error {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return fmt.Errorf("record %d: %w", t.seq+1, noEOF(err))
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n < minRecord || n > maxRecord {
		return &TamperError{Seq: t.seq + 1, What: fmt.Sprintf("%d bytes, want %d to %d", n, minRecord, maxRecord)}
	}
	var buf [maxRecord]byte
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return fmt.Errorf("record %d: %w", t.seq+1, noEOF(err))
	}
	record := string(buf[:n])
	if err := checkRecord(t.seq+1, t.head, record); err != nil {
		return err
	}
	if len(t.records) > 0 && t.bytes+n > t.max {
		return fmt.Errorf("records of more than the %d bytes that are kept", t.max)
	}
	t.push(record)
	return nil
}

// checkRecord checks that a record is number seq behind the hash prev.
func checkRecord(seq uint64, prev [32]byte, record string) error {
	if _, err := decodeRecord(record); err != nil {
		return &TamperError{Seq: seq, What: err.Error()}
	}
	if got := seqOf(record); got != seq {
		return &TamperError{Seq: seq, What: fmt.Sprintf("record %d stands in its place", got)}
	}
	if !follows(prev, record) {
		return &TamperError{Seq: seq, What: changed}
	}
	return nil
}

// Verify walks the whole chain. The error is a *TamperError.
func (t *Trail) Verify() error {
	prev, seq, bytes := t.anchor, t.First(), 0
	for _, r := range t.records {
		if err := checkRecord(seq, prev, r); err != nil {
			return err
		}
		prev, seq, bytes = hashOf(r), seq+1, bytes+len(r)
	}
	if prev != t.head || seq != t.seq+1 || bytes != t.bytes {
		return &TamperError{Seq: t.seq, What: "the head does not belong to the newest record"}
	}
	return nil
}

// noEOF makes the end of r within the trail an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
