package ship

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

const mib = 1 << 20

func (n *node) reported(ok bool) func() bool {
	return func() bool { return len(n.reports) > 0 && n.reports[len(n.reports)-1].OK == ok }
}

func TestFileArrivesWholeAndIsDeliveredOnce(t *testing.T) {
	for _, size := range []int{1, ChunkSize - 1, ChunkSize, ChunkSize + 1, Window, 10*mib + 7} {
		w := newWorld(t, 1, 1, 2)
		data := someBytes(size)
		o := offerOf(4, 100, data)
		w.start(1, 2, o, &source{data: data})
		if !w.run(10*time.Second, w.nodes[1].reported(true)) {
			t.Fatalf("%d bytes: not there; %+v", size, w.nodes[1].sender.Progress())
		}
		two := w.nodes[2]
		if !bytes.Equal(two.disk[o.File], data) {
			t.Errorf("%d bytes: another file arrived", size)
		}
		if len(two.delivered) != 1 || two.delivered[0].Peer != 1 || two.delivered[0].Incarnation != 10 ||
			string(two.delivered[0].Offer.Message) != "MsgSnap 100 of term 4" || string(two.delivered[0].Offer.Meta) != "meta" {
			t.Errorf("%d bytes: delivered %+v", size, two.delivered)
		}
		if len(w.nodes[1].source) != 0 || len(w.nodes[1].reports) != 1 {
			t.Errorf("%d bytes: %d files open, reports %+v", size, len(w.nodes[1].source), w.nodes[1].reports)
		}
	}
}

// A window of two MiB each round trip: 20 MiB at 10 ms there and back take
// about 100 ms, and nothing is sent twice.
func TestRateIsAWindowEachRoundTrip(t *testing.T) {
	w := newWorld(t, 1, 1, 2)
	w.latency, w.diskTime = 5*time.Millisecond, 100*time.Microsecond
	data := someBytes(20 * mib)
	began := w.now
	w.start(1, 2, offerOf(1, 9, data), &source{data: data})
	if !w.run(10*time.Second, w.nodes[1].reported(true)) {
		t.Fatal("not there")
	}
	if took := time.Duration(w.now - began); took > 200*time.Millisecond {
		t.Errorf("20 MiB took %s, want about 110 ms", took)
	}
	if w.sentData > int64(len(data))+1<<14 {
		t.Errorf("%d bytes sent for %d", w.sentData, len(data))
	}
}

// A line that needs two seconds for a chunk makes the sender ask whether the
// receiver lives; that must not make it send everything twice.
func TestSlowLineIsNotFilledWithRepeats(t *testing.T) {
	w := newWorld(t, 1, 1, 2)
	w.bandwidth = ChunkSize / 2
	data := someBytes(20 * ChunkSize)
	w.start(1, 2, offerOf(1, 9, data), &source{data: data})
	if !w.run(2*time.Minute, w.nodes[1].reported(true)) {
		t.Fatalf("not there: %+v", w.nodes[1].sender.Progress())
	}
	if w.sentData > int64(len(data))*11/10 {
		t.Errorf("%d bytes sent for %d", w.sentData, len(data))
	}
}

func TestLossesRepeatsAndRestarts(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, seed, 1, 2)
		w.drop, w.repeat = w.rng.Float64()*0.3, w.rng.Float64()*0.2
		w.latency = time.Duration(w.rng.Int64N(int64(300 * time.Millisecond)))
		w.diskTime = time.Duration(w.rng.Int64N(int64(20 * time.Millisecond)))
		data := someBytes(1 + w.rng.IntN(3*mib))
		o, src := offerOf(2, 50, data), &source{data: data}
		id := w.start(1, 2, o, src)
		for range w.rng.IntN(5) {
			if w.run(w.some(2*time.Second), w.nodes[1].reported(true)) {
				break
			}
			switch w.rng.IntN(4) {
			case 0:
				w.restart(2)
			case 1:
				w.restart(1)
				o.Term++ // another leader, or the same again
				id = w.start(1, 2, o, src)
			case 2:
				w.down = true
				w.run(w.some(5*time.Second), w.never())
				w.down = false
				w.carryOut(w.nodes[1], w.nodes[1].sender.Connected(w.now, 2))
			case 3:
				id = w.start(1, 2, o, src)
			}
		}
		if !w.run(10*time.Minute, w.nodes[1].reported(true)) {
			t.Fatalf("seed %d: transfer %d not there: %+v %+v", seed, id, w.nodes[1].sender.Progress(), w.nodes[1].reports)
		}
		if !bytes.Equal(w.nodes[2].disk[o.File], data) || !w.nodes[2].published[o.File] {
			t.Fatalf("seed %d: another file arrived", seed)
		}
		if len(w.nodes[1].source) != 0 {
			t.Fatalf("seed %d: %d files still open", seed, len(w.nodes[1].source))
		}
	}
}

func TestGoesOnWhereItStopped(t *testing.T) {
	for _, who := range []uint64{1, 2} {
		w := newWorld(t, 3, 1, 2)
		data := someBytes(20 * mib)
		o, src := offerOf(1, 9, data), &source{data: data}
		w.bandwidth = 10 * mib
		w.start(1, 2, o, src)
		w.run(time.Second, w.never())
		w.restart(who)
		if who == 1 {
			w.start(1, 2, o, src)
		}
		if !w.run(time.Minute, w.nodes[1].reported(true)) {
			t.Fatalf("restart of %d: not there", who)
		}
		if w.sentData > int64(len(data))+3*Window {
			t.Errorf("restart of %d: %d bytes sent for %d", who, w.sentData, len(data))
		}
	}
}

func TestDeadReceiverIsReportedAfterAMinute(t *testing.T) {
	w := newWorld(t, 1, 1, 2)
	data := someBytes(mib)
	w.down = true
	began := w.now
	w.start(1, 2, offerOf(1, 9, data), &source{data: data})
	if !w.run(5*time.Minute, w.nodes[1].reported(false)) {
		t.Fatal("never reported")
	}
	if took := time.Duration(w.now - began); took < time.Minute || took > 65*time.Second {
		t.Errorf("reported after %s", took)
	}
	if r := w.nodes[1].reports[0]; r.Peer != 2 || r.Reason == "" {
		t.Errorf("report %+v", r)
	}
}

// A receiver that answers and gets no further is given up too, but one that
// verifies a large file is not.
func TestOnlyProgressCounts(t *testing.T) {
	s := NewSender(theCluster)
	o := offerOf(1, 9, someBytes(3*mib))
	s.Start(0, 2, o)
	s.Want(0, 2, Want{File: o.File, Try: 1, Resume: true})
	for now := int64(0); now < patience-1; now += silence {
		s.Want(now, 2, Want{File: o.File, Offset: 0})
		s.Tick(now)
	}
	if p := s.Progress(); p[0].Failed {
		t.Fatal("given up early")
	}
	s.Want(patience, 2, Want{File: o.File, Offset: 0})
	s.Tick(patience)
	if p := s.Progress(); !p[0].Failed {
		t.Error("no progress for a minute, and not given up")
	}

	s = NewSender(theCluster)
	s.Start(0, 2, o)
	for now := int64(0); now < 3*patience; now += silence {
		s.Want(now, 2, Want{File: o.File, Offset: o.Size})
		s.Tick(now)
	}
	if p := s.Progress(); p[0].Failed {
		t.Fatal("given up while it verifies")
	}
	s.Tick(5 * patience)
	if p := s.Progress(); !p[0].Failed {
		t.Error("silent for two minutes, and not given up")
	}
}

// A file with one wrong byte must be refused, and raft must not hear of the
// failure so often that it offers the same all the time.
func TestDamageIsRefused(t *testing.T) {
	w := newWorld(t, 1, 1, 2)
	data := someBytes(3 * mib)
	o := offerOf(1, 9, data)
	bad := bytes.Clone(data)
	bad[2*mib] ^= 1
	var gaps []time.Duration
	for range 8 {
		began := w.now
		w.nodes[1].reports = nil
		w.start(1, 2, o, &source{data: bad})
		if !w.run(time.Minute, w.nodes[1].reported(false)) {
			t.Fatal("not reported")
		}
		gaps = append(gaps, time.Duration(w.now-began).Round(time.Second))
	}
	if r := w.nodes[1].reports[0].Reason; !strings.Contains(r, "damaged") || !strings.Contains(r, "checksum differs") {
		t.Errorf("reason %q", r)
	}
	if gaps[0] != time.Second || gaps[1] != 2*time.Second || gaps[7] != 30*time.Second {
		t.Errorf("reported after %v, want 1 s, doubled up to 30 s", gaps)
	}
	if len(w.nodes[2].delivered) != 0 || w.nodes[2].published[o.File] {
		t.Error("the damaged file was used")
	}
	// The right one is then taken, and the pause forgotten.
	w.start(1, 2, o, &source{data: data})
	if !w.run(time.Minute, w.nodes[1].reported(true)) {
		t.Fatal("the right file was not taken")
	}
}

// Wrong content may show before the end: each of the disk's tasks may say so.
func TestDamageAtAnyTaskIsRefusedAndForgotten(t *testing.T) {
	o := offerOf(5, 100, someBytes(10))
	o.Cluster, o.Try = theCluster, 1
	wrong := Result{Err: errors.New("wrong header"), Damaged: true}
	data := Data{File: o.File, Bytes: someBytes(10)}
	for name, steps := range map[string]func(r *Receiver) []Action{
		"open":  func(r *Receiver) []Action { return r.Done(0, wrong) },
		"write": func(r *Receiver) []Action { r.Done(0, Result{}); r.Data(0, 3, data); return r.Done(0, wrong) },
		"finish": func(r *Receiver) []Action {
			r.Done(0, Result{})
			r.Data(0, 3, data)
			r.Done(0, Result{})
			return r.Done(0, wrong)
		},
	} {
		r := NewReceiver(theCluster, 1)
		r.Offer(0, 3, 30, o)
		acts := steps(r)
		if m := decoded(t, acts[:1]); m != (Refuse{File: o.File, Reason: Damaged, Text: "wrong header"}) {
			t.Errorf("%s: answer %+v", name, m)
		}
		if name == "write" {
			if len(acts) != 2 || acts[1].Kind != Close {
				t.Fatalf("%s: %+v", name, acts)
			}
			r.Done(0, Result{})
		}
		if acts = r.Offer(0, 3, 30, o); len(acts) != 1 || acts[0].Kind != Open {
			t.Errorf("%s: offered again: %+v", name, acts)
		}
	}
}

func TestErrorsOfDisksEndATransfer(t *testing.T) {
	w := newWorld(t, 1, 1, 2)
	data := someBytes(3 * mib)
	o := offerOf(1, 9, data)
	w.start(1, 2, o, &source{data: data, fail: errors.New("i/o error")})
	if !w.run(time.Minute, w.nodes[1].reported(false)) || !strings.Contains(w.nodes[1].reports[0].Reason, "i/o error") {
		t.Fatalf("reading: %+v", w.nodes[1].reports)
	}
	w.start(1, 2, o, &source{data: data[:2*mib]})
	w.nodes[1].reports = nil
	if !w.run(time.Minute, w.nodes[1].reported(false)) || !strings.Contains(w.nodes[1].reports[0].Reason, "shorter") {
		t.Fatalf("short file: %+v", w.nodes[1].reports)
	}
	w.nodes[1].reports = nil
	w.nodes[2].refuse = errors.New("no space left")
	w.start(1, 2, o, &source{data: data})
	if !w.run(time.Minute, w.nodes[1].reported(false)) || !strings.Contains(w.nodes[1].reports[0].Reason, "no space left") {
		t.Fatalf("writing: %+v", w.nodes[1].reports)
	}
	w.start(1, 2, o, &source{data: data})
	if !w.run(time.Minute, w.nodes[1].reported(true)) {
		t.Fatal("not taken after there was room")
	}
}

func TestNewerOfferReplacesOlder(t *testing.T) {
	w := newWorld(t, 1, 1, 2, 3)
	w.bandwidth = mib
	old, newer := someBytes(4*mib), someBytes(5*mib)
	w.start(1, 2, offerOf(4, 100, old), &source{data: old})
	w.run(time.Second, w.never())
	// The same leader has a newer one.
	o := offerOf(4, 200, newer)
	w.start(1, 2, o, &source{data: newer})
	w.run(3*time.Second, w.never()) // behind what is on the line already
	if p, ok := w.nodes[2].receiver.Progress(); !ok || p.Index != 200 {
		t.Fatalf("taking %+v", p)
	}
	// Another leader follows, with a file of a lower index.
	third := someBytes(2 * mib)
	w.start(3, 2, offerOf(5, 150, third), &source{data: third})
	if !w.run(time.Minute, w.nodes[3].reported(true)) {
		t.Fatal("the newer leader's file was not taken")
	}
	// The old leader has not noticed.
	if !w.run(time.Minute, func() bool { return len(w.nodes[1].reports) > 0 }) {
		t.Fatal("the old leader never heard")
	}
	for _, d := range w.nodes[2].delivered {
		if d.Offer.Index == 100 {
			t.Error("the replaced file was delivered")
		}
	}
}

func TestOldLeaderIsRefusedWhileANewerSends(t *testing.T) {
	r := NewReceiver(theCluster, 1)
	o := offerOf(5, 100, []byte("x"))
	o.Cluster, o.Try = theCluster, 1
	r.Offer(0, 3, 30, o)
	old := offerOf(4, 200, []byte("y"))
	old.Cluster, old.Try = theCluster, 1
	acts := r.Offer(0, 1, 10, old)
	if m := decoded(t, acts); m != (Refuse{File: old.File, Reason: Stale}) {
		t.Errorf("answer %+v", m)
	}
}

func decoded(t *testing.T, acts []Action) Message {
	t.Helper()
	if len(acts) != 1 || acts[0].Kind != Send {
		t.Fatalf("actions %+v", acts)
	}
	m, err := Decode(acts[0].Frame)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Covers F1a: what belongs to another cluster is refused; a node of none takes
// the first.
func TestOtherClusterIsRefused(t *testing.T) {
	o := offerOf(5, 100, []byte("x"))
	o.Cluster, o.Try = [16]byte{9}, 1
	if m := decoded(t, NewReceiver(theCluster, 1).Offer(0, 3, 30, o)); m != (Refuse{File: o.File, Reason: OtherCluster}) {
		t.Errorf("answer %+v", m)
	}
	if acts := NewReceiver([16]byte{}, 0).Offer(0, 3, 30, o); len(acts) != 1 || acts[0].Kind != Open {
		t.Errorf("a node without cluster: %+v", acts)
	}
}

func TestWhatIsThereAlreadyIsNotTaken(t *testing.T) {
	r := NewReceiver(theCluster, 1)
	r.Have(100)
	o := offerOf(5, 100, []byte("x"))
	o.Cluster, o.Try = theCluster, 3
	if m := decoded(t, r.Offer(0, 3, 30, o)); m != (Want{File: o.File, Try: 3, Done: true}) {
		t.Errorf("answer %+v", m)
	}
}

// The answer that it is done may be lost; the same leader then hears it again,
// and another gets the message delivered for itself.
func TestDoneIsRepeated(t *testing.T) {
	w := newWorld(t, 1, 1, 2, 3)
	data := someBytes(mib)
	o := offerOf(4, 9, data)
	w.start(1, 2, o, &source{data: data})
	two := w.nodes[2]
	w.run(10*time.Second, func() bool {
		w.down = len(two.delivered) > 0 || w.nodes[2].receiver.busy == Finish
		return len(two.delivered) > 0
	})
	w.run(time.Second, w.never())
	if len(w.nodes[1].reports) != 0 {
		t.Fatal("the answer was to be lost")
	}
	w.down = false
	if !w.run(10*time.Second, w.nodes[1].reported(true)) || len(two.delivered) != 1 {
		t.Fatalf("reports %+v, delivered %d times", w.nodes[1].reports, len(two.delivered))
	}
	o.Term++
	w.start(3, 2, o, &source{data: data})
	if !w.run(10*time.Second, w.nodes[3].reported(true)) || len(two.delivered) != 2 {
		t.Errorf("reports %+v, delivered %d times", w.nodes[3].reports, len(two.delivered))
	}
}

func TestSilentSenderIsGivenUpAndThePartialKept(t *testing.T) {
	w := newWorld(t, 1, 1, 2)
	data := someBytes(4 * mib)
	w.bandwidth = mib
	o := offerOf(1, 9, data)
	w.start(1, 2, o, &source{data: data})
	w.run(2*time.Second, w.never())
	w.carryOut(w.nodes[1], w.nodes[1].sender.CancelAll())
	w.run(70*time.Second, w.never())
	if _, busy := w.nodes[2].receiver.Progress(); busy || w.nodes[2].open != nil {
		t.Error("still waiting for a sender that is gone")
	}
	if len(w.nodes[2].disk[o.File]) == 0 {
		t.Error("what had arrived was thrown away")
	}
	if len(w.nodes[1].reports) != 0 || len(w.nodes[1].source) != 0 {
		t.Errorf("reports %+v, %d files open after CancelAll", w.nodes[1].reports, len(w.nodes[1].source))
	}
}

// Whatever a peer sends, memory stays within the window and offsets within the
// file.
func TestHostileSender(t *testing.T) {
	r := NewReceiver(theCluster, 1)
	o := offerOf(5, 100, someBytes(10*mib))
	o.Cluster, o.Try = theCluster, 1
	r.Offer(0, 3, 30, o)
	r.Done(0, Result{Offset: 0})
	chunk := make([]byte, ChunkSize)
	for i := range int64(40) {
		r.Data(0, 3, Data{File: o.File, Offset: i * ChunkSize, Bytes: chunk})
	}
	if held := r.cur.arrived - r.cur.written; held > Window {
		t.Errorf("%d bytes in memory, window %d", held, Window)
	}
	before := r.cur.arrived
	for _, d := range []Data{
		{File: o.File, Offset: o.Size - 1, Bytes: chunk},
		{File: o.File, Offset: 1 << 60, Bytes: chunk},
		{File: File{Index: 100}, Offset: before, Bytes: chunk},
	} {
		r.Data(0, 3, d)
	}
	r.Data(0, 4, Data{File: o.File, Offset: before, Bytes: chunk}) // another node
	if r.cur.arrived != before {
		t.Errorf("took what nobody should have sent: %d after %d", r.cur.arrived, before)
	}
}

func TestHostileReceiver(t *testing.T) {
	s := NewSender(theCluster)
	o := offerOf(5, 100, someBytes(3*mib))
	id, _ := s.Start(0, 2, o)
	for _, w := range []Want{
		{File: o.File, Offset: o.Size + 1, Resume: true},
		{File: File{Index: 100}, Offset: 0, Resume: true},
		{File: o.File, Offset: 0, Try: 7, Resume: true},
	} {
		if acts := s.Want(0, 2, w); acts != nil {
			t.Errorf("%+v: %+v", w, acts)
		}
	}
	if acts := s.Want(0, 3, Want{File: o.File, Done: true}); acts != nil {
		t.Errorf("another node: %+v", acts)
	}
	// Going back and forth while a read is under way must not mix offsets up.
	acts := s.Want(0, 2, Want{File: o.File, Try: 1, Resume: true})
	if len(acts) != 1 || acts[0].Kind != Read {
		t.Fatalf("actions %+v", acts)
	}
	s.Want(0, 2, Want{File: o.File, Offset: 2 * mib, Resume: true})
	acts = s.ReadDone(0, id, make([]byte, acts[0].Length), nil)
	if len(acts) != 1 || acts[0].Kind != Read || acts[0].Offset != 2*mib {
		t.Errorf("after a jump: %+v", acts)
	}
}
