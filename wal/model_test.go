package wal

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"pgregory.net/rapid"
)

// A log on a disk that loses power now and then, against a slice.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{mem: vfs.NewMem()}
		m.opts = testOptions(m.mem)
		m.opts.SegmentBytes = rapid.SampledFrom([]int64{32 << 10, 48 << 10}).Draw(t, "segment bytes")
		var err error
		if m.log, err = Create(m.opts); err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"append":   m.append,
			"truncate": m.truncate,
			"release":  m.release,
			"reopen":   m.reopen,
			"crash":    m.crash,
		})
		if err := m.log.Close(); err != nil {
			t.Fatal(err)
		}
		m.open(t, 0)
		if err := m.log.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

type model struct {
	mem     *vfs.Mem
	opts    Options
	log     *Log
	records []Record // what the log must hold, but for released ones
	upto    uint64   // highest index ever released
}

func (m *model) next() uint64 {
	if n := len(m.records); n > 0 {
		return m.records[n-1].Index + 1
	}
	return m.upto + 1
}

func (m *model) append(t *rapid.T) {
	n := rapid.IntRange(0, 5).Draw(t, "records")
	var batch []Record
	for i := range n {
		batch = append(batch, m.draw(t, m.next()+uint64(i)))
	}
	if err := appendWait(m.log, batch...); err != nil {
		t.Fatal(err)
	}
	m.records = append(m.records, batch...)
}

func (m *model) draw(t *rapid.T, index uint64) Record {
	size := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 9000), rapid.IntRange(0, m.log.opts.MaxPayload)).Draw(t, "size")
	r := entry(index, size)
	r.Type = rapid.Uint8Range(1, MaxType).Draw(t, "type")
	r.Term = rapid.Uint64().Draw(t, "term")
	return r
}

func (m *model) truncate(t *rapid.T) {
	from := rapid.Uint64Range(m.upto+1, max(m.next(), m.upto+1)).Draw(t, "from")
	if err := truncateWait(m.log, from); err != nil {
		t.Fatal(err)
	}
	m.records = cut(m.records, from)
}

func (m *model) release(t *rapid.T) {
	upto := rapid.Uint64Range(0, m.next()-1).Draw(t, "upto")
	if err := m.log.Release(upto); err != nil {
		t.Fatal(err)
	}
	m.upto = max(m.upto, upto)
}

func (m *model) reopen(t *rapid.T) {
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t, 0)
}

// crash cuts the power while an append is on its way: afterwards it is there, in
// part from its first record, or not at all.
func (m *model) crash(t *rapid.T) {
	var batch []Record
	for i := range rapid.IntRange(0, 4).Draw(t, "records") {
		batch = append(batch, m.draw(t, m.next()+uint64(i)))
	}
	done := make(chan error, 1)
	m.log.Append(batch, func(err error) { done <- err })
	m.mem.Crash(vfs.CrashOptions{
		Rand:    rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
		Sectors: rapid.SampledFrom([]float64{0, 0.5, 0.9, 1}).Draw(t, "sectors"),
		Names:   rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "names"),
		Tear:    rapid.SampledFrom([]float64{0, 0.2}).Draw(t, "tear"),
	})
	acked := <-done == nil
	_ = m.log.Close() // its files are gone with the crash
	m.records = append(m.records, batch...)
	if acked {
		m.open(t, 0)
	} else {
		m.open(t, len(batch))
	}
}

// open checks that the log holds the records, of which the last may be missing.
func (m *model) open(t *rapid.T, missing int) {
	var got []Record
	l, rec, err := Open(m.opts, collect(&got))
	if err != nil {
		t.Fatal(err)
	}
	m.log = l
	if len(got) > 0 && len(m.records) > 0 && got[0].Index > m.records[0].Index && got[0].Index > m.upto+1 {
		t.Fatalf("log begins with index %d, released up to %d", got[0].Index, m.upto)
	}
	got, want := after(got, m.upto), after(m.records, m.upto)
	err = errors.New("no length tried")
	for n := 0; n <= missing && err != nil; n++ {
		if err = equalRecords(got, want[:len(want)-n]); err == nil {
			m.records = m.records[:len(m.records)-n]
		}
	}
	if err != nil {
		t.Fatalf("%v (%+v)", err, rec)
	}
}

// after returns the records whose index is above upto.
func after(records []Record, upto uint64) []Record {
	for len(records) > 0 && records[0].Index <= upto {
		records = records[1:]
	}
	return records
}
