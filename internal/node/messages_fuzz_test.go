package node

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/ship"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// fuzzRig is a cluster that lives on from input to input, as long as what it
// was told has not changed it.
type fuzzRig struct {
	r    *rig
	used int
}

// maxUsed bounds what inputs before may have to do with a finding.
const maxUsed = 100

func (f *fuzzRig) get(t *testing.T) *rig {
	if f.r == nil || f.used >= maxUsed {
		f.r, f.used = startedRig(t), 0
	}
	f.r.t = t
	f.used++
	return f.r
}

// keep starts anew after an input that moved or ended something.
func (f *fuzzRig) keep() {
	for _, h := range f.r.hosts {
		if h.w == nil || h.w.raft == nil {
			f.r = nil
			return
		}
	}
	if f.r.holding() == nil {
		f.r = nil
	}
}

// FuzzMessages: whatever an authenticated member sends on the control or bulk
// connection, in beats or as notes, no worker panics. Raft frames have a
// target of their own, where they are decoded.
func FuzzMessages(f *testing.F) {
	body, err := json.Marshal(failoverAsk{To: "gw2", Group: "web"})
	if err != nil {
		f.Fatal(err)
	}
	q, err := json.Marshal(ask{ID: 3, Op: opFailover, Actor: "root", Body: body})
	if err != nil {
		f.Fatal(err)
	}
	write := kv.AppendRequest(make([]byte, 8), &kv.Request{Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: "k", Value: []byte("v")}}})
	f.Add(kindAsk, true, q)                                                    // a switchover
	f.Add(kindAsk, true, []byte(`{"id":1,"op":"member","body":{"op":"add"}}`)) // parts missing
	f.Add(kindAsk, true, []byte(`{"id":1,"op":"fence","body":null}`))          // no body
	f.Add(kindAsk, true, []byte(`{"op":"record","body":{"Kind":"x"}}`))        // an event of a member
	f.Add(kindAsk, false, []byte(`{"op":"maintenance","body":{"node":"nobody","on":true}}`))
	f.Add(kindReply, true, []byte(`{"id":18446744073709551615,"error":{}}`))                                                    // to nobody's question
	f.Add(kindWrites, true, write)                                                                                              // a write
	f.Add(kindWritten, false, writtenFrame(f))                                                                                  // answers to nothing
	f.Add(kindHash, true, make([]byte, hashMessage))                                                                            // of no checkpoint
	f.Add(kindRejoin, true, make([]byte, hashMessage))                                                                          // from one that does not lead
	f.Add(kindFirst, false, []byte{1, 2, 3})                                                                                    // no configuration
	f.Add(kindShip, true, ship.Encode(ship.Offer{Term: 9, File: ship.File{Index: 1 << 40}, Size: 1 << 40, Try: 1, Message: q})) // a huge snapshot
	f.Add(kindShip, true, ship.Encode(ship.Want{File: ship.File{Index: 7}}))                                                    // of what was never offered
	f.Add(uint8(200), true, make([]byte, 111))                                                                                  // a note (200), not signed
	full, err := (&transport.Beat{Incarnation: 101, Sequence: 1 << 50, RaftID: 1, Term: 1 << 60, Flags: transport.FlagLeaderClaim, Commit: 1 << 60}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(201), true, full) // a beat (201) that claims everything
	var shared fuzzRig
	f.Fuzz(func(t *testing.T, kind uint8, toLeader bool, payload []byte) {
		if kind == kindRaft {
			return
		}
		r := shared.get(t)
		to := r.leader()
		from := "w1"
		if !toLeader {
			from, to = to.name, r.standby()
		}
		if from == to.name {
			from = "gw1"
		}
		in := inlet{to.w}
		switch kind {
		case 200:
			in.OnNote(payload, netip.AddrPort{})
		case 201:
			b := append(append([]byte{}, to.w.notes.cluster[:]...), payload...)
			if p := to.w.peers[from]; p != nil && len(b) > clusterSize+19 { // of a member that is known
				binary.BigEndian.PutUint64(b[clusterSize+3+8:], p.raftID)
			}
			in.OnBeat(from, 0, b, r.now())
		case kindShip:
			if payload = bytes.Clone(payload); len(payload) > clusterSize {
				copy(payload[1:], to.w.notes.cluster[:]) // where an offer has it
			}
			in.OnMessage(from, transport.Bulk, kind, payload)
		default:
			in.OnMessage(from, transport.Control, kind, payload)
		}
		r.run(20 * time.Millisecond)
		shared.keep()
	})
}

// FuzzLastWords: whatever the file holds, a worker starts, and what it takes
// over is short enough to be committed.
func FuzzLastWords(f *testing.F) {
	words, err := json.Marshal([]storage.Record{{Kind: "worker", Node: "gw1", Cause: "failed", Detail: "no room"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(words)
	f.Add([]byte(`[{"Kind":"` + string(make([]byte, 300)) + `"}]`)) // not JSON
	f.Add([]byte(`[{},{},null]`))                                   // empty events
	f.Add([]byte(`{"Kind":"worker"}`))                              // no list
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newRig(t, nil)
		h := r.host("gw1")
		if err := h.fsys.WriteFile(filepath.Join("/run", lastWords), text, 0o600); err != nil {
			t.Fatal(err)
		}
		h.start()
		if len(h.w.events) > maxEvents {
			t.Fatalf("%d events wait", len(h.w.events))
		}
		for _, e := range h.w.events {
			if len(e.record.Detail) > storage.MaxDetail || len(e.record.Cause) > storage.MaxCause {
				t.Fatalf("an event of %d and %d bytes", len(e.record.Cause), len(e.record.Detail))
			}
		}
		h.kill()
	})
}
