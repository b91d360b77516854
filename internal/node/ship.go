package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/internal/ship"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/storage"
)

// Snapshots for members that are too far behind for the log travel on the bulk
// connection. Package ship decides what is sent when; files are read and
// written beside the loop.

// shipping is what this node sends and receives.
type shipping struct {
	sender   *ship.Sender
	receiver *ship.Receiver
	files    map[uint64]*storage.SnapshotFile // by transfer
	incoming *storage.Receiver
}

func newShipping(cluster [16]byte, have uint64) *shipping {
	return &shipping{
		sender: ship.NewSender(cluster), receiver: ship.NewReceiver(cluster, have), files: map[uint64]*storage.SnapshotFile{},
	}
}

// shipSnapshots begins to send what raft wants sent.
func (w *worker) shipSnapshots(now int64, list []quorum.SnapshotOut) {
	for _, s := range list {
		file, err := w.snaps.Open(s.Index)
		if err != nil {
			w.limited.Warn("snapshot for a member not opened", "member", w.nameOf(s.To), "index", s.Index, "error", err)
			w.raft.SnapshotDone(now, s.To, false)
			continue
		}
		meta := file.Meta()
		w.log.Info("sending snapshot", "member", w.nameOf(s.To), "index", s.Index, "bytes", meta.Size)
		id, acts := w.shipping.sender.Start(now, s.To, ship.Offer{
			Term: w.raft.Status(now).Term, File: ship.File{Index: meta.Index, Sum: meta.Sum}, Size: meta.Size,
			Meta: meta.Encode(), Message: s.Message,
		})
		w.shipping.files[id] = file
		w.shipActs(now, acts)
	}
}

// takeShip takes a frame of another member's transfer.
func (w *worker) takeShip(now int64, name string, frame []byte) {
	p := w.peers[name]
	if w.raft == nil || p == nil || p.id() == 0 {
		return
	}
	m, err := ship.Decode(frame)
	if err != nil {
		w.limited.Warn("snapshot message refused", "member", name, "error", err)
		return
	}
	s := w.shipping
	switch m := m.(type) {
	case ship.Offer:
		s.receiver.Have(w.appliedIndex())
		w.shipActs(now, s.receiver.Offer(now, p.id(), p.hello.Incarnation, m))
	case ship.Data:
		w.shipActs(now, s.receiver.Data(now, p.id(), m))
	case ship.Want:
		w.shipActs(now, s.sender.Want(now, p.id(), m))
	case ship.Refuse:
		w.shipActs(now, s.sender.Refuse(now, p.id(), m))
	}
}

// receivedMemory is how long a state that was received waits for raft.
const receivedMemory = 10 * time.Second

// shipTurn lets time act on transfers.
func (w *worker) shipTurn(now int64) {
	s := w.shipping
	if w.received != nil && now-w.receivedAt > int64(receivedMemory) {
		w.received = nil // raft had no use for it; who offers it again must send it again
		s.receiver.Forget()
	}
	if !w.leads(now) && len(s.files) > 0 {
		w.shipActs(now, s.sender.CancelAll())
	}
	w.shipActs(now, s.sender.Tick(now))
	w.shipActs(now, s.receiver.Tick(now))
}

// shipActs carries out what package ship asks for.
func (w *worker) shipActs(now int64, acts []ship.Action) {
	s := w.shipping
	for _, a := range acts {
		switch a.Kind {
		case ship.Send:
			if p := w.peerByID(a.Peer); p != nil {
				_ = w.mesh.Send(p.member.Name, transport.Bulk, kindShip, a.Frame) // lost frames are asked for again
			}
		case ship.Read:
			w.shipRead(a)
		case ship.Release:
			file := s.files[a.Transfer]
			delete(s.files, a.Transfer)
			w.host.Go(func() {
				if err := file.Close(); err != nil {
					w.log.Warn("close snapshot", "error", err)
				}
			})
		case ship.Report:
			if !a.OK {
				w.log.Warn("snapshot not delivered", "member", w.nameOf(a.Peer), "reason", a.Reason)
			}
			w.raft.SnapshotDone(now, a.Peer, a.OK)
		case ship.Deliver:
			if err := w.raft.StepSnapshot(now, a.Peer, a.Incarnation, a.Offer.Message); err != nil {
				w.limited.Warn("snapshot not taken by raft", "error", err)
			}
		default:
			w.shipStore(a)
		}
	}
}

func (w *worker) shipRead(a ship.Action) {
	file := w.shipping.files[a.Transfer]
	w.host.Go(func() {
		b := make([]byte, a.Length)
		_, err := file.ReadAt(b, a.Offset)
		w.mustPost(func(now int64) {
			if damaged(err) {
				w.fail(fmt.Errorf("read snapshot for a member: %w", err))
				return
			}
			w.shipActs(now, w.shipping.sender.ReadDone(now, a.Transfer, b, err))
		})
	})
}

// shipStore does what the receiver asks of the disk, one thing at a time.
func (w *worker) shipStore(a ship.Action) {
	s := w.shipping
	incoming, cluster := s.incoming, w.notes.cluster
	w.host.Go(func() {
		var res ship.Result
		var opened *storage.Receiver
		var state *storage.State
		switch a.Kind {
		case ship.Open:
			var meta storage.SnapshotMeta
			if meta, res.Err = storage.DecodeSnapshotMeta(a.Offer.Meta); res.Err == nil && meta.Cluster != cluster {
				res.Err = errors.New("snapshot of another cluster")
			}
			if res.Err != nil {
				res.Damaged = true
			} else if opened, res.Err = w.snaps.Receive(meta); res.Err == nil {
				res.Offset = opened.Offset()
			}
		case ship.Write:
			res.Err = incoming.Write(a.Offset, a.Bytes)
		case ship.Finish:
			state, res.Err = incoming.Finish(w.stopCtx)
		case ship.Close:
			res.Err = incoming.Close()
		}
		res.Damaged = res.Damaged || damaged(res.Err) // of what came, not of this disk
		w.mustPost(func(now int64) { w.shipStored(now, a, res, opened, state) })
	})
}

func (w *worker) shipStored(now int64, a ship.Action, res ship.Result, opened *storage.Receiver, state *storage.State) {
	s := w.shipping
	switch {
	case errors.Is(res.Err, context.Canceled):
		return // the worker ends
	case res.Err == nil || noRoom(res.Err):
	case res.Damaged:
		w.log.Error("snapshot refused", "member", w.nameOf(a.Peer), "error", res.Err)
		w.recordEvent(storage.Record{Kind: "corruption", Node: w.selfName, Cause: "snapshot-refused", Detail: fmt.Sprintf("from %s: %v", w.nameOf(a.Peer), res.Err)})
	default:
		w.fail(fmt.Errorf("store snapshot: %w", res.Err))
		return
	}
	if opened != nil {
		s.incoming = opened
		w.log.Info("receiving snapshot", "member", w.nameOf(a.Peer), "index", a.Offer.Index, "bytes", a.Offer.Size, "have", res.Offset)
	}
	if state != nil {
		w.received, w.receivedAt = state, now
	}
	if a.Kind == ship.Close && res.Err != nil {
		w.limited.Warn("close partial snapshot", "error", res.Err)
		res.Err = nil
	}
	w.shipActs(now, s.receiver.Done(now, res))
}

// closeShipping closes the files that are still open at the end.
func (w *worker) closeShipping() error {
	if w.shipping == nil {
		return nil
	}
	var errs []error
	for _, f := range w.shipping.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
