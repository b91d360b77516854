package lease

import (
	"bytes"
	"testing"
)

func itself(voter uint64) uint64 { return voter }

// What happens to a copy leaves the original as it was, and its key too.
func TestClonesAreApart(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	v.Note(at(0), releaseOf(nodeB, incB, 4))
	v.Note(at(0), overOf(nodeC, 33))
	h := newHolder()
	begin(t, h, 5)
	h.Request(at(0), 1)
	h.Ack(nodeA, ackOf(5, 1))
	before := h.AppendKey(v.AppendKey(nil, at(1)), at(1), int64(lease), itself)

	v2, h2 := v.Clone(), h.Clone()
	if got := h2.AppendKey(v2.AppendKey(nil, at(1)), at(1), int64(lease), itself); !bytes.Equal(got, before) {
		t.Fatal("a copy has another key")
	}
	wantAck(t, v2, at(1), reqA(6, 2), 2)
	v2.Note(at(1), releaseOf(nodeB, incB, 5))
	v2.Note(at(1), overOf(nodeC, 34))
	v2.SetCloned(nodeB, true)
	h2.Ack(nodeB, ackOf(5, 1))
	h2.Request(at(1), 2)
	h2.Ack(nodeA, ackOf(5, 2))
	if got := h.AppendKey(v.AppendKey(nil, at(1)), at(1), int64(lease), itself); !bytes.Equal(got, before) {
		t.Fatal("the original changed with its copy")
	}
	wantWindow(t, h, 0)
	wantWindow(t, h2, int64(lease))
}

// Keys tell apart what behaves differently, and do not what behaves alike.
func TestVoterKey(t *testing.T) {
	granted := func(seq uint64) *Voter {
		v := openVoter()
		v.Request(at(0), reqA(5, seq))
		return v
	}
	key := func(v *Voter, millis int64) string { return string(v.AppendKey(nil, at(millis))) }
	if key(granted(1), 100) == key(granted(2), 100) {
		t.Error("the sequence of a grant is not in the key")
	}
	if v := granted(1); key(v, 100) == key(v, 101) {
		t.Error("what is left of a promise is not in the key")
	}
	if v := granted(1); key(v, 500) != key(v, 9000) {
		t.Error("for how long a promise has been over is in the key")
	}
	later := openVoter()
	later.Request(at(100), reqA(5, 1))
	if key(later, 200) != key(granted(1), 100) {
		t.Error("the time of day is in the key")
	}
	changes := map[string]func(*Voter){
		"applied": func(v *Voter) { v.Applied(0, 5, nodeA, incA) },
		"seen":    func(v *Voter) { v.Request(at(1), reqB(6, 1)) },
		"release": func(v *Voter) { v.Note(0, releaseOf(nodeB, incB, 3)) },
		"over":    func(v *Voter) { v.Note(0, overOf(nodeB, incB)) },
		"config":  func(v *Voter) { v.AppliedConfig(3) },
		"abstain": func(v *Voter) { v.SetVoting(false) },
		"cloned":  func(v *Voter) { v.SetCloned(nodeB, true) },
		"promise": func(v *Voter) { v.SetPromise(promise / 2) },
	}
	seen := map[string]string{key(granted(1), 1): "unchanged"}
	for name, change := range changes {
		v := granted(1)
		change(v)
		k := key(v, 1)
		if other, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[k] = name
	}
}

func TestHolderKey(t *testing.T) {
	asking := func(beats ...uint64) *Holder {
		h := newHolder()
		begin(t, h, 5)
		for _, seq := range beats {
			h.Request(at(int64(seq)), seq)
		}
		return h
	}
	key := func(h *Holder, millis int64, name func(uint64) uint64) string {
		return string(h.AppendKey(nil, at(millis), int64(lease), name))
	}
	if key(asking(1), 10, itself) == key(asking(2), 10, itself) {
		t.Error("when a beat was sent is not in the key")
	}
	acked := asking(1)
	acked.Ack(nodeB, ackOf(5, 1))
	if key(acked, 10, itself) == key(asking(1), 10, itself) {
		t.Error("acknowledgements are not in the key")
	}
	if key(acked, 1000, itself) != key(asking(1), 1000, itself) {
		t.Error("acknowledgements that can open nothing are in the key")
	}
	other := asking(1)
	other.Ack(nodeC, ackOf(5, 1))
	trade := func(v uint64) uint64 {
		switch v {
		case nodeB:
			return nodeC
		case nodeC:
			return nodeB
		}
		return v
	}
	if key(acked, 10, itself) == key(other, 10, itself) {
		t.Error("who acknowledged is not in the key")
	}
	if key(acked, 10, itself) != key(other, 10, trade) {
		t.Error("two voters cannot trade places")
	}
	released := asking(1)
	released.Release(0)
	if key(released, 10, itself) == key(asking(1), 10, itself) {
		t.Error("a release is not in the key")
	}
}
