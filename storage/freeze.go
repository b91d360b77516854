package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// A state on disk and on the wire is a stream:
//
//	"HFSTATE2"
//	section: control part     each section is a row of chunks,
//	section: buckets          {uint32 length, bytes}, that ends
//	section: audit trail      with a chunk of length 0
//	state hash (32 bytes)
//
// so that neither side ever holds more than a chunk of what it streams.
const stateMagic = "HFSTATE2"

const (
	stateChunk  = 64 << 10
	maxChunk    = 1 << 20
	maxControl  = 16 << 20
	hashDomain  = "holdfast state 2"
	controlText = "HFC-STATE2"
)

// Frozen is a state at one index that never changes, for any goroutine to
// read. Making one costs little, whatever the size of the state.
type Frozen struct {
	cluster     [16]byte
	index, term uint64
	conf        Conf
	control     []byte
	hash        [32]byte
	data        *kv.View
	trail       *audit.Trail
}

// Freeze returns the state as it is now.
func (s *State) Freeze() *Frozen {
	control := s.encode()
	return &Frozen{
		cluster: s.cluster, index: s.applied, term: s.term,
		conf:    Conf{Voters: slices.Clone(s.conf.Voters), Learners: slices.Clone(s.conf.Learners), Outgoing: slices.Clone(s.conf.Outgoing)},
		control: control, hash: s.hash(control), data: s.kv.View(), trail: s.trail.Clone(),
	}
}

// Cluster returns the cluster id.
func (f *Frozen) Cluster() [16]byte { return f.cluster }

// Index returns the index of the last entry in the state.
func (f *Frozen) Index() uint64 { return f.index }

// Term returns the term of that entry.
func (f *Frozen) Term() uint64 { return f.term }

// Conf returns raft's configuration at that index. It must not be changed.
func (f *Frozen) Conf() Conf { return f.conf }

// Hash returns the hash of the state.
func (f *Frozen) Hash() [32]byte { return f.hash }

// Data returns the buckets.
func (f *Frozen) Data() *kv.View { return f.data }

// Hash covers the whole state at its index; it is equal on all nodes. It costs
// no more than the control part, because buckets and trail keep theirs.
func (s *State) Hash() [32]byte { return s.hash(s.encode()) }

func (s *State) hash(control []byte) [32]byte {
	h := sha256.New()
	_, _ = io.WriteString(h, hashDomain)
	sum := sha256.Sum256(control)
	h.Write(sum[:])
	if s.kv != nil {
		sum = s.kv.Hash()
		h.Write(sum[:])
	}
	if s.trail != nil {
		seq, head := s.trail.Head()
		_ = binary.Write(h, binary.BigEndian, [3]uint64{seq, s.trail.First(), uint64(s.trail.MaxBytes())})
		h.Write(head[:])
	}
	return [32]byte(h.Sum(nil))
}

// Encode writes the state as a stream that DecodeState reads.
func (f *Frozen) Encode(w io.Writer) error {
	if _, err := io.WriteString(w, stateMagic); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	for _, part := range []func(io.Writer) error{
		func(w io.Writer) error { _, err := w.Write(f.control); return err },
		f.data.Encode,
		f.trail.Encode,
	} {
		s := &sectionWriter{w: w, buf: make([]byte, 4, 4+stateChunk)}
		if err := part(s); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
		if err := s.end(); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
	}
	if _, err := w.Write(f.hash[:]); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// DecodeState reads what Encode wrote and proves that it has the hash that
// stands at its end.
func DecodeState(r io.Reader) (*State, error) {
	var magic [len(stateMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if string(magic[:]) != stateMagic {
		return nil, fmt.Errorf("read state: begins with %q, want %q", magic, stateMagic)
	}
	s := &State{}
	for _, part := range []func(io.Reader) error{
		s.decodeControl,
		func(r io.Reader) (err error) { s.kv, err = kv.Decode(r); return err },
		func(r io.Reader) (err error) { s.trail, err = audit.Decode(r); return err },
	} {
		sr := &sectionReader{r: r}
		if err := part(sr); err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		if err := sr.end(); err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
	}
	var want [32]byte
	if _, err := io.ReadFull(r, want[:]); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if got := s.Hash(); got != want {
		return nil, fmt.Errorf("read state: hash is %x, want %x", got, want)
	}
	return s, nil
}

// sectionWriter cuts what is written into chunks; buf keeps room for a length
// in front.
type sectionWriter struct {
	w   io.Writer
	buf []byte
}

func (s *sectionWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := min(4+stateChunk-len(s.buf), len(p))
		s.buf = append(s.buf, p[:room]...)
		p = p[room:]
		if len(s.buf) == 4+stateChunk {
			if err := s.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (s *sectionWriter) flush() error {
	binary.BigEndian.PutUint32(s.buf, uint32(len(s.buf)-4))
	_, err := s.w.Write(s.buf)
	s.buf = s.buf[:4]
	return err
}

func (s *sectionWriter) end() error {
	if len(s.buf) > 4 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	return s.flush() // a chunk of length 0
}

// sectionReader gives back the bytes of one section and then io.EOF, so that a
// reader that reads ahead stays within it.
type sectionReader struct {
	r    io.Reader
	left uint32
	done bool
}

func (s *sectionReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for s.left == 0 {
		if s.done {
			return 0, io.EOF
		}
		var size [4]byte
		if _, err := io.ReadFull(s.r, size[:]); err != nil {
			return 0, noEOF(err)
		}
		s.left = binary.BigEndian.Uint32(size[:])
		if s.left > maxChunk {
			return 0, fmt.Errorf("chunk of %d bytes, at most %d allowed", s.left, maxChunk)
		}
		s.done = s.left == 0
	}
	n, err := s.r.Read(p[:min(len(p), int(s.left))])
	s.left -= uint32(n)
	if err != nil && s.left > 0 {
		return n, noEOF(err)
	}
	return n, nil
}

// noEOF makes the end of the stream within a section an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// end checks that the section was read to its end.
func (s *sectionReader) end() error {
	var one [1]byte
	n, err := s.Read(one[:])
	if n > 0 {
		return errors.New("section has bytes left over")
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (s *State) decodeControl(r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, maxControl+1))
	if err != nil {
		return fmt.Errorf("control part: %w", err)
	}
	if len(b) > maxControl {
		return fmt.Errorf("control part: larger than %d bytes", maxControl)
	}
	d := &decoder{b: b}
	if magic := d.take(len(controlText)); string(magic) != controlText {
		return errors.New("control part: unknown format")
	}
	copy(s.cluster[:], d.take(len(s.cluster)))
	s.applied, s.term = d.u64(), d.u64()
	s.name, s.profile = d.str(MaxName, "cluster name"), decodeProfile(d)
	for range d.count(MaxMembers, "members") {
		s.members = append(s.members, decodeMember(d))
	}
	s.groups = decodeGroups(d)
	s.nextGroup, s.groupsIndex, s.configIndex = d.u16(), d.u64(), d.u64()
	for _, ids := range []*[]uint64{&s.conf.Voters, &s.conf.Learners, &s.conf.Outgoing} {
		for range d.count(2*MaxMembers, "nodes") {
			*ids = append(*ids, d.u64())
		}
	}
	s.decodeMarks(d)
	if err := d.end(); err != nil {
		return fmt.Errorf("control part: %w", err)
	}
	if string(s.encode()) != string(b) {
		return errors.New("control part: not in canonical form")
	}
	return nil
}

func (s *State) decodeMarks(d *decoder) {
	s.assigned, s.fenced, s.maintained = map[uint16]Assignment{}, map[uint64]Fenced{}, map[uint64]Maintained{}
	for range d.count(MaxGroups, "assignments") {
		group, a := decodeAssignment(d)
		s.assigned[group] = a
	}
	for range d.count(MaxMembers, "fences") {
		s.fenced[d.u64()] = Fenced{Operator: d.bool(), Index: d.u64(), At: int64(d.u64())}
	}
	for range d.count(MaxMembers, "members in maintenance") {
		s.maintained[d.u64()] = Maintained{Actor: d.str(MaxActor, "actor"), Index: d.u64(), At: int64(d.u64())}
	}
	for range d.count(MaxHistory, "failovers") {
		group, a := decodeAssignment(d)
		s.history = append(s.history, Failover{Group: group, Assignment: a})
	}
}

// encode writes every field of the control part in one fixed order; maps are
// sorted by key.
func (s *State) encode() []byte {
	e := &encoder{b: []byte(controlText)}
	e.raw(s.cluster[:])
	e.u64(s.applied)
	e.u64(s.term)
	e.str(s.name)
	encodeProfile(e, s.profile)
	e.count(len(s.members))
	for _, m := range s.members {
		encodeMember(e, m)
	}
	e.count(len(s.groups))
	for _, g := range s.groups {
		encodeGroup(e, g)
	}
	e.u16(s.nextGroup)
	e.u64(s.groupsIndex)
	e.u64(s.configIndex)
	for _, ids := range [][]uint64{s.conf.Voters, s.conf.Learners, s.conf.Outgoing} {
		e.count(len(ids))
		for _, id := range ids {
			e.u64(id)
		}
	}
	e.count(len(s.assigned))
	for _, g := range slices.Sorted(maps.Keys(s.assigned)) {
		encodeAssignment(e, g, s.assigned[g])
	}
	e.count(len(s.fenced))
	for _, id := range slices.Sorted(maps.Keys(s.fenced)) {
		f := s.fenced[id]
		e.u64(id)
		e.bool(f.Operator)
		e.u64(f.Index)
		e.u64(uint64(f.At))
	}
	e.count(len(s.maintained))
	for _, id := range slices.Sorted(maps.Keys(s.maintained)) {
		m := s.maintained[id]
		e.u64(id)
		e.str(m.Actor)
		e.u64(m.Index)
		e.u64(uint64(m.At))
	}
	e.count(len(s.history))
	for _, f := range s.history {
		encodeAssignment(e, f.Group, f.Assignment)
	}
	return e.b
}

func encodeAssignment(e *encoder, group uint16, a Assignment) {
	e.u16(group)
	e.u64(a.Epoch)
	e.u64(a.Node)
	e.u64(a.Incarnation)
	e.u64(a.Prev)
	e.u64(a.From)
	e.str(a.Cause)
	e.u64(uint64(a.At))
}

func decodeAssignment(d *decoder) (uint16, Assignment) {
	return d.u16(), Assignment{
		Epoch: d.u64(), Node: d.u64(), Incarnation: d.u64(), Prev: d.u64(), From: d.u64(),
		Cause: d.str(MaxCause, "cause"), At: int64(d.u64()),
	}
}
