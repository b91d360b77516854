package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func member(name string, id uint64, role Role) Member {
	return Member{Name: name, PublicKey: sha256.Sum256([]byte(name)), RaftID: id, Role: role, Priority: 100}
}

func vip(s string) VIP { return VIP{Prefix: netip.MustParsePrefix(s), Scope: ScopeVIP} }

func firstConfig() FirstConfig {
	return FirstConfig{
		Cluster: "site-a",
		Members: []Member{member("w1", 3, Witness), member("gw1", 1, Gateway), member("gw2", 2, Gateway)},
		Groups: []Group{
			{Name: "web", VIPs: []VIP{vip("10.0.0.9/24"), vip("10.0.0.8/24")}},
			{Name: "default", VIPs: []VIP{vip("fd00::100/64")}},
		},
		Profile: Profile{Beat: 50 * time.Millisecond, Promise: 500 * time.Millisecond, Epsilon: 20 * time.Millisecond},
	}
}

// Covers F1, F1a: the same bytes on all members whatever their files' order,
// another id for other raft ids.
func TestFirstConfigIsCanonical(t *testing.T) {
	a, b := firstConfig(), firstConfig()
	slices.Reverse(b.Members)
	slices.Reverse(b.Groups)
	slices.Reverse(b.Groups[1].VIPs)
	if !bytes.Equal(a.Encode(), b.Encode()) || a.ID() != b.ID() || a.Digest() != b.Digest() {
		t.Fatal("order changes the encoding")
	}
	b.Members[0].RaftID = 77
	if a.ID() == b.ID() || a.Digest() != b.Digest() {
		t.Fatal("a raft id must change the id and not the digest")
	}
	got, err := DecodeFirst(a.Encode())
	if err != nil || got.ID() != a.ID() || got.Groups[0].Name != "default" || got.Groups[1].ID != 1 {
		t.Fatalf("decoded %+v: %v", got, err)
	}
}

func TestFirstConfigValidate(t *testing.T) {
	for want, change := range map[string]func(*FirstConfig){
		"want 3 to 63":     func(c *FirstConfig) { c.Members = c.Members[:2] },
		"listed twice":     func(c *FirstConfig) { c.Members[1].Name = "gw2" },
		"same public key":  func(c *FirstConfig) { c.Members[1].PublicKey = c.Members[2].PublicKey },
		"same raft id":     func(c *FirstConfig) { c.Members[1].RaftID = 2 },
		"is reserved":      func(c *FirstConfig) { c.Members[1].RaftID = ^uint64(0) },
		"no public key":    func(c *FirstConfig) { c.Members[1].PublicKey = [32]byte{} },
		"is a gateway":     func(c *FirstConfig) { c.Members[1].Role, c.Members[2].Role = Witness, Witness },
		"unknown role":     func(c *FirstConfig) { c.Members[1].Role = 9 },
		"in group":         func(c *FirstConfig) { c.Groups[1].VIPs = append(c.Groups[1].VIPs, vip("10.0.0.8/24")) },
		"floating address": func(c *FirstConfig) { c.Groups[1].VIPs = []VIP{vip("127.0.0.1/8")} },
		"0 addresses":      func(c *FirstConfig) { c.Groups[1].VIPs = nil },
		"0 < beat":         func(c *FirstConfig) { c.Profile.Beat = 0 },
		"printable":        func(c *FirstConfig) { c.Cluster = "a b" },
	} {
		c := firstConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func FuzzDecodeFirst(f *testing.F) {
	f.Add(firstConfig().Encode())
	f.Add([]byte(firstMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeFirst(b); err == nil && !bytes.Equal(c.Encode(), b) {
			t.Fatal("two encodings of one configuration")
		}
	})
}

func ops() []Op {
	return []Op{
		Assign{Group: 1, Node: 2, Incarnation: 22, Prev: 4, Cause: "over", From: 1, Notes: [][]byte{{1, 2}, {}}},
		Fence{Node: 2, Operator: true}, Unfence{Node: 2}, Maintenance{Node: 2, On: true},
		SetGroups{Groups: firstConfig().Groups}, PutMember{Member: member("gw3", 9, Gateway), Cause: "operator"}, RemoveMember{RaftID: 9},
		Record{Kind: "disk", Node: "gw1", Group: "web", Epoch: 7, Cause: "full", Detail: "no room"}, Checkpoint{}, Leave{RaftID: 9, Cause: "new_data"}, Expire{Clock: 77},
	}
}

func mustEncode(t testing.TB, op Op) []byte {
	t.Helper()
	b, err := Command{At: 12345, Op: op}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCommandsRoundTrip(t *testing.T) {
	for _, op := range ops() {
		b := mustEncode(t, op)
		c, err := DecodeCommand(b)
		if err != nil {
			t.Fatalf("%T: %v", op, err)
		}
		if again := mustEncode(t, c.Op); c.At != 12345 || !bytes.Equal(again, b) {
			t.Fatalf("%T came back as %+v", op, c)
		}
		if kind, ok := KindOf(b); !ok || kind != op.kind() {
			t.Fatalf("%T: kind %d", op, kind)
		}
		for i := range b {
			if _, err := DecodeCommand(b[:i]); err == nil {
				t.Fatalf("%T: %d of %d bytes taken", op, i, len(b))
			}
		}
	}
	for _, b := range [][]byte{{3, 1}, {2, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if _, err := DecodeCommand(b); !errors.Is(err, ErrUnknownCommand) {
			t.Fatalf("%v: %v", b, err)
		}
	}
	bad := []Op{
		Assign{Node: 2}, Assign{Incarnation: 1}, Assign{Node: 1, Incarnation: 1, Cause: strings.Repeat("x", MaxCause+1)},
		Assign{Node: 1, Incarnation: 1, Notes: make([][]byte, MaxNotes+1)},
		Assign{Node: 1, Incarnation: 1, Notes: [][]byte{make([]byte, MaxNote+1)}}, Fence{}, nil,
	}
	for _, op := range bad {
		if _, err := (Command{Op: op}).Encode(); err == nil {
			t.Errorf("%+v encoded", op)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, op := range ops() {
		f.Add(mustEncode(f, op))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two encodings of one command: %v", err)
		}
	})
}

// world applies commands one after the other.
type world struct {
	t  *testing.T
	st *State
}

func (w *world) apply(op Op) Result {
	w.t.Helper()
	index, term := w.st.Applied()
	r, err := w.st.Apply(index+1, term, mustEncode(w.t, op))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) wants(op Op, ignored string) {
	w.t.Helper()
	if r := w.apply(op); (r.Ignored == "") != (ignored == "") || !strings.Contains(r.Ignored, ignored) {
		w.t.Fatalf("%+v: ignored %q, want %q", op, r.Ignored, ignored)
	}
}

// Covers section 1 of the protocol: an Assign counts only on top of the epoch
// it was decided from.
func TestAssignNeedsThePresentEpoch(t *testing.T) {
	w := &world{t, NewState(firstConfig())}
	w.wants(Assign{Group: 0, Node: 1, Incarnation: 11}, "")
	first := w.st.Assignment(0)
	if first.Epoch != 2 || first.Node != 1 {
		t.Fatalf("%+v", first)
	}
	w.wants(Assign{Group: 0, Node: 2, Incarnation: 22}, "epoch is 2, not 0")
	w.wants(Assign{Group: 0, Node: 2, Incarnation: 22, Prev: 2, From: 1}, "")
	w.wants(Assign{Group: 0, Node: 1, Incarnation: 11, Prev: 2}, "epoch is 4, not 2")
	w.wants(Assign{Group: 1, Node: 1, Incarnation: 11}, "")
	w.wants(Assign{Group: 9, Node: 1, Incarnation: 11}, "no such group")
	w.wants(Assign{Group: 1, Node: 3, Incarnation: 33, Prev: 6}, "not a gateway")
	if a := w.st.Assignment(0); a.Epoch != 4 || a.Prev != 2 || a.From != 1 || a.At != 12345 {
		t.Fatalf("%+v", a)
	}
	if h := w.st.History(); len(h) != 3 || h[2].Group != 1 {
		t.Fatalf("history %+v", h)
	}
	for range 2 * MaxHistory {
		w.wants(Assign{Group: 0, Node: 1, Incarnation: 11, Prev: w.st.Assignment(0).Epoch}, "")
	}
	if n := len(w.st.History()); n != MaxHistory {
		t.Fatalf("%d remembered", n)
	}
}

// Covers A6.
func TestFencesAndMaintenance(t *testing.T) {
	w := &world{t, NewState(firstConfig())}
	w.wants(Unfence{Node: 2}, "not fenced")
	w.wants(Fence{Node: 99}, "no such member")
	w.wants(Fence{Node: 2}, "")
	w.wants(Fence{Node: 2}, "fenced already")
	w.wants(Unfence{Node: 2}, "")
	w.wants(Fence{Node: 2}, "")
	w.wants(Fence{Node: 2, Operator: true}, "")
	w.wants(Unfence{Node: 2}, "by an operator")
	w.wants(Unfence{Node: 2, Operator: true}, "")
	if len(w.st.FencedNodes()) != 0 {
		t.Fatal("still fenced")
	}
	w.wants(Maintenance{Node: 1, On: true}, "")
	w.wants(Maintenance{Node: 1, On: true}, "nothing to change")
	if m, ok := w.st.Maintained(1); !ok || m.Index == 0 {
		t.Fatalf("%+v", m)
	}
	w.wants(Maintenance{Node: 1}, "")
}

// Covers F1a: one address is never in two groups, IDs are never used twice.
func TestSetGroups(t *testing.T) {
	w := &world{t, NewState(firstConfig())}
	web := Group{Name: "web", VIPs: []VIP{vip("10.0.0.8/24")}}
	w.wants(Assign{Group: 0, Node: 1, Incarnation: 11}, "")
	w.wants(SetGroups{[]Group{web, {Name: "new", VIPs: []VIP{vip("10.0.0.9/24")}}}}, "is in group web")
	w.wants(SetGroups{[]Group{web}}, "") // "default", group 0, goes
	if a := w.st.Assignment(0); a.Epoch != 0 {
		t.Fatalf("assignment of a group that is gone: %+v", a)
	}
	w.wants(SetGroups{[]Group{web, {Name: "default", VIPs: []VIP{vip("10.0.0.9/24")}}}}, "")
	if g := w.st.Groups(); len(g) != 2 || g[0].ID != 1 || g[0].Name != "web" || g[1].ID != 2 {
		t.Fatalf("%+v", g)
	}
}

// Covers F2: a name gets a new raft id; what an operator said stays with it.
func TestMembersAndConfigurations(t *testing.T) {
	w := &world{t, NewState(firstConfig())}
	w.wants(Fence{Node: 2, Operator: true}, "")
	w.wants(Maintenance{Node: 2, On: true}, "")
	index, term := w.st.Applied()
	put := mustEncode(t, PutMember{Member: member("gw2", 20, Gateway)})
	if _, err := w.st.ApplyConf(index+1, term, Conf{Voters: []uint64{1, 2, 3}, Learners: []uint64{20}}, put); err != nil {
		t.Fatal(err)
	}
	conf, at := w.st.Conf()
	if at != index+1 || conf.Voter(20) || !conf.Contains(20) || !conf.Voter(2) {
		t.Fatalf("%+v at %d", conf, at)
	}
	if _, ok := w.st.MemberByID(2); ok {
		t.Fatal("old raft id still a member")
	}
	_, fenced := w.st.Fenced(20)
	_, maintained := w.st.Maintained(20)
	if !fenced || !maintained {
		t.Fatal("marks lost with the disk")
	}
	w.wants(PutMember{Member: member("gw9", 20, Gateway)}, "belongs to gw2")
	w.wants(PutMember{Member: member("gw3", 30, Gateway)}, "")
	w.wants(RemoveMember{RaftID: 30}, "")
	w.wants(RemoveMember{RaftID: 30}, "no such member")
}

func TestUnknownCommandStopsTheNode(t *testing.T) {
	st := NewState(firstConfig())
	if _, err := st.Apply(2, 1, []byte{2, 250, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); !errors.Is(err, ErrUnknownCommand) {
		t.Fatal(err)
	}
}

// The state is a function of the log: a clone at any point and a replay from
// the start agree with it, and a clone shares nothing.
func TestStateIsDeterministic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		a := NewState(firstConfig())
		var log [][]byte
		var clone *State
		at := rng.IntN(60)
		for i := range 60 {
			if i == at {
				clone = a.CloneControl()
			}
			b := mustEncode(t, randomOp(rng, a))
			log = append(log, b)
			if _, err := a.Apply(uint64(i+2), 1, b); err != nil {
				rt.Fatal(err)
			}
		}
		b := NewState(firstConfig())
		for i, data := range log {
			if i == at && b.CloneControl().Hash() != clone.Hash() {
				rt.Fatal("clone changed with its original")
			}
			if _, err := b.Apply(uint64(i+2), 1, data); err != nil {
				rt.Fatal(err)
			}
		}
		if a.Hash() != b.Hash() {
			rt.Fatal("same log, other state")
		}
	})
}

func randomOp(rng *rand.Rand, st *State) Op {
	node := uint64(rng.IntN(4) + 1)
	group := uint16(rng.IntN(3))
	switch rng.IntN(6) {
	case 0:
		return Fence{Node: node, Operator: rng.IntN(2) == 0}
	case 1:
		return Unfence{Node: node, Operator: rng.IntN(2) == 0}
	case 2:
		return Maintenance{Node: node, On: rng.IntN(2) == 0}
	case 3:
		groups := st.Groups()
		return SetGroups{groups[rng.IntN(len(groups)):]}
	case 4:
		return PutMember{Member: member("gw2", uint64(rng.IntN(3)+2), Gateway)}
	}
	return Assign{Group: group, Node: node, Incarnation: 5, Prev: st.Assignment(group).Epoch, From: node}
}
