package quorum

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"
)

// Read is the answer to a ReadIndex: a state that has applied Index holds
// everything that was committed when the question was asked.
type Read struct {
	Token, Index uint64
}

// ReadIndex asks the leader, and through it a majority, up to where the log is
// committed. Any member may ask. The answer comes in Output.Reads, or never:
// then ask again under a token that was not used before, because an answer may
// be that of the earlier question. Errors: ErrNoLeader, ErrBusy.
func (d *Driver) ReadIndex(now int64, token uint64) error {
	d.at(now)
	v := d.view()
	switch {
	case v.lead == 0:
		return fmt.Errorf("read: %w", ErrNoLeader)
	case v.role == leader && (d.stuck(now) || !d.takesRead()):
		return fmt.Errorf("read: %w", ErrBusy)
	}
	// An answer to an earlier run of this node must not count as one to this.
	ctx := binary.BigEndian.AppendUint64(nil, d.cfg.Incarnation)
	d.rn.ReadIndex(binary.BigEndian.AppendUint64(ctx, token))
	return nil
}

// takesRead counts one more question, if this node is the leader and can take
// it. raft would pass another's question on to the leader under the asker's
// name, where nobody expects it.
func (d *Driver) takesRead() bool {
	if d.view().role != leader || d.reading >= maxReads {
		return false
	}
	// raft lets an only voter answer before it knows what is committed.
	if len(d.conf.Voters) == 1 && d.rn.BasicStatus().GetCommit() < d.opened {
		return false
	}
	d.reading++
	return true
}

// answered takes raft's answers to this node's questions.
func (d *Driver) answered(states []raft.ReadState, out *Output) {
	for _, s := range states {
		d.readDone()
		if len(s.RequestCtx) != 16 || binary.BigEndian.Uint64(s.RequestCtx) != d.cfg.Incarnation {
			continue
		}
		out.Reads = append(out.Reads, Read{Token: binary.BigEndian.Uint64(s.RequestCtx[8:]), Index: s.Index})
	}
}

func (d *Driver) readDone() { d.reading = max(d.reading-1, 0) }
