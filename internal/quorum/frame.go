package quorum

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// MaxFrame is the largest raft message in bytes that is sent or taken: one
// entry of the greatest size and what surrounds it.
const MaxFrame = 10 << 20

// ErrFrame means that a peer sent something that is not a raft message this
// node takes. The connection it came on should be closed.
var ErrFrame = errors.New("bad raft frame")

// maxContext bounds what goes with a read, in bytes.
const maxContext = 32

// decodeFrame parses a message from a peer and refuses what no peer of ours
// sends: local messages, forwarded proposals, another's name.
func decodeFrame(self, from uint64, data []byte) (*raftpb.Message, error) {
	if len(data) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, len(data), MaxFrame)
	}
	m := &raftpb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp,
		raftpb.MsgTimeoutNow, raftpb.MsgSnap:
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if e := m.GetEntries(); len(e) != 1 || len(e[0].GetData()) > maxContext {
			return nil, fmt.Errorf("%w: %s with %d entries", ErrFrame, m.GetType(), len(e))
		}
	default:
		return nil, fmt.Errorf("%w: type %s", ErrFrame, m.GetType())
	}
	if m.GetFrom() != from || m.GetTo() != self {
		return nil, fmt.Errorf("%w: from %x to %x on a connection from %x to %x", ErrFrame, m.GetFrom(), m.GetTo(), from, self)
	}
	// A question to the leader is the only message of no term.
	if (m.GetTerm() == 0) != (m.GetType() == raftpb.MsgReadIndex) || len(m.GetResponses()) != 0 {
		return nil, fmt.Errorf("%w: term %d with %d responses", ErrFrame, m.GetTerm(), len(m.GetResponses()))
	}
	return m, nil
}

// isVote reports whether m asks for a vote or a pre-vote.
func isVote(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgPreVote
}

// fromLeader reports whether only a leader sends m.
func fromLeader(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		return true
	}
	return false
}
