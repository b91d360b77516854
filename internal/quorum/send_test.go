package quorum

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// app is an append of entries from..to behind from-1.
func app(from, to, commit uint64) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), To: new(uint64(2)), Term: new(uint64(3)), Index: new(from - 1), Commit: new(commit)}
	for i := from; i <= to; i++ {
		m.Entries = append(m.Entries, &raftpb.Entry{Index: new(i), Data: []byte("0123456789")})
	}
	return m
}

func resp(index uint64, reject bool) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), To: new(uint64(2)), Term: new(uint64(3)), Index: new(index), Reject: new(reject)}
}

// What follows each other to one node leaves as one message, and nothing else
// does.
func TestMessagesAreJoined(t *testing.T) {
	to3 := app(5, 5, 1)
	to3.To = new(uint64(3))
	newer := app(6, 6, 1)
	newer.Term = new(uint64(4))
	big := app(6, 6, 1)
	big.Entries[0].Data = make([]byte, maxBytesApp)
	beat := func() *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), To: new(uint64(2)), Term: new(uint64(3))}
	}
	for name, c := range map[string]struct {
		in   []*raftpb.Message
		want string // to, first index, entries, commit of each
	}{
		"appends in a row":         {[]*raftpb.Message{app(5, 6, 1), app(7, 7, 2), app(8, 9, 4)}, "[2 4 5 4]"},
		"news of a commit":         {[]*raftpb.Message{app(5, 6, 1), app(7, 6, 5)}, "[2 4 2 5]"},
		"an older commit":          {[]*raftpb.Message{app(5, 6, 7), app(7, 7, 5)}, "[2 4 3 7]"},
		"a gap":                    {[]*raftpb.Message{app(5, 6, 1), app(8, 8, 1)}, "[2 4 2 1][2 7 1 1]"},
		"the same again":           {[]*raftpb.Message{app(5, 6, 1), app(5, 6, 1)}, "[2 4 2 1][2 4 2 1]"},
		"another term":             {[]*raftpb.Message{app(5, 5, 1), newer}, "[2 4 1 1][2 5 1 1]"},
		"too much":                 {[]*raftpb.Message{app(5, 5, 1), big}, "[2 4 1 1][2 5 1 1]"},
		"another node in between":  {[]*raftpb.Message{app(5, 5, 1), to3, app(6, 6, 2)}, "[2 4 2 2][3 4 1 1]"},
		"another kind in between":  {[]*raftpb.Message{app(5, 5, 1), beat(), app(6, 6, 2)}, "[2 4 1 1][2 0 0 0][2 5 1 2]"},
		"heartbeats":               {[]*raftpb.Message{beat(), beat()}, "[2 0 0 0][2 0 0 0]"},
		"answers":                  {[]*raftpb.Message{resp(5, false), resp(9, false), resp(7, false)}, "[2 9 0 0]"},
		"a refusal stands alone":   {[]*raftpb.Message{resp(5, false), resp(9, true), resp(7, false)}, "[2 5 0 0][2 9 0 0][2 7 0 0]"},
		"an answer and an append":  {[]*raftpb.Message{resp(5, false), app(6, 6, 1)}, "[2 5 0 0][2 5 1 1]"},
		"nothing behind an append": {[]*raftpb.Message{app(5, 5, 1)}, "[2 4 1 1]"},
	} {
		d := &Driver{peers: map[uint64]*peer{}, held: map[uint64]notice{}}
		for _, m := range c.in {
			d.send(1, m)
		}
		got := ""
		for _, o := range d.outbox {
			got += fmt.Sprint([]uint64{o.m.GetTo(), o.m.GetIndex(), uint64(len(o.m.GetEntries())), o.m.GetCommit()})
			for i, e := range o.m.GetEntries() {
				if e.GetIndex() != o.m.GetIndex()+1+uint64(i) {
					t.Errorf("%s: entry %d in place of %d", name, e.GetIndex(), o.m.GetIndex()+1+uint64(i))
				}
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Joining leaves alone what raft keeps behind the entries that it gave.
func TestJoiningDoesNotWriteIntoRaft(t *testing.T) {
	log := app(5, 9, 1).Entries
	first, second := app(5, 5, 1), app(6, 6, 1)
	first.Entries = log[:1]
	second.Entries = []*raftpb.Entry{{Index: new(uint64(6)), Data: []byte("another")}}
	d := &Driver{peers: map[uint64]*peer{}, held: map[uint64]notice{}}
	d.send(1, first)
	d.send(1, second)
	if len(d.outbox) != 1 || string(log[1].GetData()) != "0123456789" {
		t.Fatalf("%d messages, raft's entry is %q", len(d.outbox), log[1].GetData())
	}
}

// Many proposals between two turns cost each follower one message.
func TestProposalsOfATurnAreOneMessage(t *testing.T) {
	s := plainCluster(t, 80, "gw1", "gw2", "w1")
	l := s.settle()
	data := make([][]byte, 50)
	for i := range data {
		data[i] = []byte{2, 40, byte(i)} // no state machine sees it
	}
	sent := map[string]int{}
	s.onRaft = func(from, to *node, m *raftpb.Message) {
		if from == l && m.GetType() == raftpb.MsgApp {
			sent[to.name]++
			if n := len(m.GetEntries()); n != 100 {
				t.Fatalf("%d entries to %s", n, to.name)
			}
		}
	}
	s.check(l.d.Propose(s.now, data...))
	for _, d := range data {
		s.check(l.d.Propose(s.now, d))
	}
	out, err := l.d.Process(s.now)
	s.check(err)
	for _, m := range out.Messages {
		l.sendRaft(m)
	}
	if len(sent) != 2 || sent["gw2"] != 1 || sent["w1"] != 1 {
		t.Fatalf("sent %v", sent)
	}
}

// What is committed is news that can wait for the next append, unless it is
// more than data.
func TestNewsOfDataWaitsForTheNextAppend(t *testing.T) {
	begin := func() *Driver {
		d := &Driver{peers: map[uint64]*peer{}, held: map[uint64]notice{}}
		d.send(1, app(5, 6, 4)) // entries up to 6, committed up to 4
		d.outbox = d.outbox[:0]
		return d
	}
	t.Run("data", func(t *testing.T) {
		d := begin()
		d.send(2, app(7, 6, 6)) // nothing but the news of 6
		if len(d.outbox) != 0 || len(d.held) != 1 {
			t.Fatalf("%d messages, %d wait", len(d.outbox), len(d.held))
		}
		d.send(3, app(7, 7, 6))
		if len(d.outbox) != 1 || len(d.held) != 0 || d.outbox[0].m.GetCommit() != 6 {
			t.Fatalf("%d messages, %d wait", len(d.outbox), len(d.held))
		}
	})
	t.Run("control", func(t *testing.T) {
		d := begin()
		d.tail.lastControl = 6
		d.send(2, app(7, 6, 6))
		if len(d.outbox) != 1 || len(d.held) != 0 {
			t.Fatal("the news of an Assign waits")
		}
		d.outbox = d.outbox[:0]
		d.send(3, app(8, 7, 7)) // behind it is data again
		if len(d.outbox) != 0 || len(d.held) != 1 {
			t.Fatal("the news of data behind it does not wait")
		}
	})
	t.Run("a node that lacks entries", func(t *testing.T) {
		d := begin()
		d.send(2, app(6, 5, 6)) // asks whether entry 5 is there
		if len(d.outbox) != 1 {
			t.Fatal("a question waits")
		}
	})
}
