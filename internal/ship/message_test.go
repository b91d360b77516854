package ship

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

var samples = []Message{
	Offer{Cluster: theCluster, Term: 3, File: File{Index: 7, Sum: [32]byte{1}}, Size: 1 << 40, Try: 2, Meta: []byte("meta"), Message: []byte("raft")},
	Offer{Cluster: theCluster, Term: 3, File: File{Index: 7}, Size: 1, Try: 1},
	Want{File: File{Index: 7, Sum: [32]byte{2}}, Offset: 1 << 30, Try: 3, Resume: true},
	Want{File: File{Index: 7}, Done: true},
	Data{File: File{Index: 7, Sum: [32]byte{3}}, Offset: 9, Bytes: []byte("bytes of the file")},
	Refuse{File: File{Index: 7}, Reason: Damaged, Text: "checksum differs"},
	Refuse{File: File{Index: 7}, Reason: Stale},
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, m := range samples {
		got, err := Decode(Encode(m))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v: got %+v, %v", m, got, err)
		}
	}
	big := Data{File: File{Index: 1}, Bytes: make([]byte, ChunkSize)}
	if b := Encode(big); len(b) > MaxMessage {
		t.Errorf("largest data has %d bytes, limit %d", len(b), MaxMessage)
	}
}

func TestMalformedIsRefused(t *testing.T) {
	for _, m := range samples {
		b := Encode(m)
		for n := range b {
			if _, err := Decode(b[:n]); !errors.Is(err, ErrMessage) {
				t.Errorf("%T cut to %d of %d bytes: %v", m, n, len(b), err)
			}
		}
		if _, err := Decode(append(bytes.Clone(b), 0)); !errors.Is(err, ErrMessage) {
			t.Errorf("%T with a byte more: %v", m, err)
		}
	}
	change := func(m Message, at int, v byte) []byte {
		b := Encode(m)
		b[at] = v
		return b
	}
	want, refusal := Encode(samples[3]), Encode(samples[6])
	for name, b := range map[string][]byte{
		"no type":            {},
		"unknown type":       {9},
		"index 0":            change(samples[3], 8, 0),
		"unknown flag":       change(samples[3], len(want)-1, 4),
		"negative offset":    change(samples[3], 41, 0x80),
		"reason 0":           change(samples[6], len(refusal)-5, 0),
		"unknown reason":     change(samples[6], len(refusal)-5, 9),
		"length of 4 GiB":    change(samples[6], len(refusal)-4, 0xff),
		"offer of no bytes":  append(append([]byte{typeOffer}, make([]byte, 16+8+40+8+4+8-1)...), 0),
		"data of no bytes":   append(append([]byte{typeData}, 0, 0, 0, 0, 0, 0, 0, 1), make([]byte, 32+8+4)...),
		"longer than a data": make([]byte, MaxMessage+1),
	} {
		if _, err := Decode(b); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: nothing panics, and what is read has exactly the encoding that
// it was read from.
func FuzzDecode(f *testing.F) {
	for _, m := range samples {
		f.Add(Encode(m)) // each type with and without its optional parts
	}
	f.Add([]byte{typeOffer})                                                // cut after the type
	f.Add(append([]byte{typeData}, bytes.Repeat([]byte{0xff}, 48+4+16)...)) // every number at its largest
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if !bytes.Equal(Encode(m), b) {
			t.Fatalf("%+v has another encoding than %x", m, b)
		}
	})
}

// FuzzReceiver: whatever messages arrive and however the disk answers, memory
// stays within the window and no second task is given to the disk.
func FuzzReceiver(f *testing.F) {
	f.Add([]byte{0, 1, 4, 2, 4, 2, 3, 4, 4}) // an offer, data, writes
	f.Add([]byte{0, 4, 0, 1, 2, 5, 0, 4, 6}) // newer offers and failures between
	f.Add([]byte{0, 4, 2, 2, 2, 3, 3, 7, 7}) // gaps, time passing
	f.Fuzz(func(t *testing.T, script []byte) {
		r := NewReceiver(theCluster, 1)
		offers := []Offer{offerOf(1, 10, make([]byte, 3)), offerOf(1, 20, make([]byte, 5)), offerOf(2, 15, make([]byte, 1))}
		under, now := 0, int64(0)
		see := func(acts []Action) {
			for _, a := range acts {
				if a.Kind == Open || a.Kind == Write || a.Kind == Finish || a.Kind == Close {
					under++
				}
			}
			if under > 1 {
				t.Fatalf("%d tasks for the disk at once", under)
			}
		}
		for i, b := range script {
			o := offers[int(b>>4)%len(offers)]
			o.Cluster, o.Try = theCluster, uint32(i+1)
			switch b & 7 {
			case 0, 1:
				see(r.Offer(now, uint64(b&1)+2, 7, o))
			case 2, 3:
				see(r.Data(now, 2, Data{File: o.File, Offset: int64(b>>5) % o.Size, Bytes: make([]byte, 1+b&1)}))
			case 4, 5, 6:
				if under == 0 {
					continue
				}
				under--
				res := Result{}
				if b&7 == 5 {
					res = Result{Err: errors.New("disk"), Damaged: b>>4&1 == 1}
				}
				see(r.Done(now, res))
			case 7:
				now += int64(b) * 1e9
				see(r.Tick(now))
			}
			if r.cur != nil && (r.cur.arrived-r.cur.written > Window || r.cur.arrived > r.cur.offer.Size) {
				t.Fatalf("arrived %d, written %d of %d", r.cur.arrived, r.cur.written, r.cur.offer.Size)
			}
		}
	})
}
