package quorum

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/storage"
)

// Whatever a peer sends is refused as ErrFrame, or is a message that raft can
// take: from who sent it, of a known type, with what the type needs.
func FuzzDecodeFrame(f *testing.F) {
	snap := &raftpb.Snapshot{Data: []byte("meta"), Metadata: &raftpb.SnapshotMetadata{
		Index: new(uint64(9)), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}},
	}}
	message := func(m *raftpb.Message) []byte {
		m.From, m.To = new(uint64(1)), new(uint64(2))
		return encodeFrame(m)
	}
	// An append, the bulk of all traffic.
	f.Add(message(&raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: new(uint64(3)), Entries: []*raftpb.Entry{{Index: new(uint64(5)), Data: []byte("x")}}}))
	// A snapshot, which StepSnapshot takes.
	f.Add(message(&raftpb.Message{Type: raftpb.MsgSnap.Enum(), Term: new(uint64(3)), Snapshot: snap}))
	// The one message of no term.
	f.Add(message(&raftpb.Message{Type: raftpb.MsgReadIndex.Enum(), Entries: []*raftpb.Entry{{Data: make([]byte, 16)}}}))
	// raft would fail on a question without an entry.
	f.Add(message(&raftpb.Message{Type: raftpb.MsgReadIndex.Enum()}))
	// A message of raft to itself must not come from outside.
	f.Add(message(&raftpb.Message{Type: raftpb.MsgStorageAppendResp.Enum(), Term: new(uint64(3))}))
	// No protobuf.
	f.Add([]byte{255})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeFrame(2, 1, data)
		if err != nil {
			if !errors.Is(err, ErrFrame) || m != nil {
				t.Fatalf("%v with %v", m, err)
			}
			return
		}
		if m.GetFrom() != 1 || m.GetTo() != 2 || len(m.GetResponses()) != 0 {
			t.Fatalf("took %v", m)
		}
		switch m.GetType() {
		case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
			if len(m.GetEntries()) != 1 {
				t.Fatalf("took %v", m)
			}
		case raftpb.MsgProp, raftpb.MsgHup, raftpb.MsgStorageAppendResp, raftpb.MsgStorageApplyResp, raftpb.MsgUnreachable, raftpb.MsgSnapStatus:
			t.Fatalf("took %v", m)
		}
		if checkSnapshot(m) == nil {
			conf := storage.ConfOf(m.GetSnapshot().GetMetadata().GetConfState())
			if len(conf.Voters) == 0 || len(conf.Voters)+len(conf.Learners) > 2*storage.MaxMembers {
				t.Fatalf("took a snapshot of %+v", conf)
			}
		}
		again, err := decodeFrame(2, 1, encodeFrame(m))
		if err != nil || !proto.Equal(again, m) {
			t.Fatalf("%v became %v: %v", m, again, err)
		}
	})
}
