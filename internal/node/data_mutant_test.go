package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

func put(key, value string) kv.Request {
	return kv.Request{Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: key, Value: []byte(value)}}}
}

// Covers S7: times to live count by the committed clock, which no wall clock
// moves.
func TestCommittedClockIgnoresTheWall(t *testing.T) {
	r := startedRig(t)
	w := r.leader().w
	before, at := w.committedClock(r.now()), r.now()
	r.wall = r.wall.Add(24 * time.Hour)
	r.run(100 * time.Millisecond)
	if moved := w.committedClock(r.now()) - before; moved != r.now()-at {
		t.Fatalf("the committed clock moved by %v in %v", time.Duration(moved), time.Duration(r.now()-at))
	}
}

// Covers I3: a read is answered when its index is applied.
func TestReadWaitsUntilItsIndexIsApplied(t *testing.T) {
	r := startedRig(t)
	w := r.host("w1").w
	var got []*kv.View
	late := read{until: r.now() + int64(time.Minute), done: func(v *kv.View, _ *control.Error) { got = append(got, v) }}
	w.reads.count += 2
	w.reads.ready[w.appliedIndex()] = []read{late}
	w.reads.ready[w.appliedIndex()+1] = []read{late}
	w.answerReads()
	if len(got) != 1 {
		t.Fatalf("%d reads answered, one index of two is applied", len(got))
	}
}

// Covers I3: the answer to a question that was given up is none to who came
// later.
func TestReadIgnoresAnswersOfBefore(t *testing.T) {
	w := quiet()
	w.reads = newReads()
	w.reads.token, w.reads.asked = 7, []read{{}}
	w.readsConfirmed([]quorum.Read{{Token: 6, Index: 3}})
	if len(w.reads.ready) != 0 {
		t.Fatal("the answer to another question was taken")
	}
	w.readsConfirmed([]quorum.Read{{Token: 7, Index: 3}})
	if len(w.reads.ready[3]) != 1 {
		t.Fatal("the answer was not taken")
	}
}

// Covers I2, I3: who is told that a write is done finds it, and nobody is told
// so before a majority has it.
func TestWriteIsAnsweredWhenApplied(t *testing.T) {
	r := startedRig(t)
	l := r.leader()
	answers := 0
	l.stepped.Write(put("a", "1"), func(res kv.Result, err *control.Error) {
		answers++
		if err != nil || res.Code != kv.OK {
			t.Errorf("write: %v, %v", res, err)
			return
		}
		if _, ok := l.stepped.Local().Get("tasks", "a"); !ok {
			t.Error("the write is done, and a local read does not find it")
		}
	})
	r.until("an answer", func() bool { return answers == 1 })

	r.isolate(l.name)
	l.stepped.Write(put("b", "1"), func(res kv.Result, err *control.Error) { answers++ })
	r.run(300 * time.Millisecond)
	if answers != 1 {
		t.Fatal("a leader that reaches nobody answers a write")
	}
}

// Covers I2: a write is not confirmed by what another leader put at its index.
func TestWriteOfALostLeadershipIsUnknown(t *testing.T) {
	w := quiet()
	q := w.writes
	q.waitsFor(func(one write) { q.flight[10] = flight{term: 3, writes: []write{one}} })
	w.writesApplied(0, 10, 4, []kv.Result{{Code: kv.OK}})
	if len(q.answers) != 0 {
		t.Fatal("a write was confirmed by the entry of another leader")
	}
}

// Covers I8: after an error of the disk nothing leaves this process, and its
// gate is closed.
func TestFailedLogEndsTheWorker(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.kill()
	broken := false
	h.fsys = vfs.Inject(h.disk, func(op vfs.Op) error {
		if broken && op.Kind.Changes() && strings.Contains(op.Path, "wal") {
			return errors.New("I/O error")
		}
		return nil
	})
	h.start()
	r.until("a holder", func() bool { return r.holding() != nil })
	r.run(2 * time.Second)
	l := r.leader()
	broken = true
	done := false
	l.stepped.Write(put("a", "1"), func(kv.Result, *control.Error) { done = true })
	r.run(500 * time.Millisecond)
	if h.w != nil || h.err == nil {
		t.Fatalf("the worker goes on over a log that has failed (write answered: %v)", done)
	}
	if h.gate.open() {
		t.Fatal("its gate is open")
	}
}
