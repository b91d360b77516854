package node

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
)

// founded tells how many members have founded the cluster.
func (r *rig) founded() (n int) {
	for _, h := range r.hosts {
		if h.w != nil && h.w.raft != nil {
			n++
		}
	}
	return n
}

// wipe kills the workers of hosts and gives them empty disks.
func (r *rig) wipe(names ...string) {
	r.t.Helper()
	for _, name := range names {
		h := r.host(name)
		h.kill()
		h.disk = vfs.NewMem()
		h.fsys = h.disk
		if err := h.disk.MkdirAll("/run", 0o700); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Covers F1: a cluster begins when all were reached.
func TestF1FoundingNeedsEverybody(t *testing.T) {
	r := newRig(t, nil)
	r.host("gw1").start()
	r.host("gw2").start()
	r.run(2 * time.Second)
	if n := r.founded(); n != 0 {
		t.Fatalf("%d of two members have founded a cluster of three", n)
	}
	// One that was reached once, and is not there now, may come back as another.
	r.host("w1").start()
	r.host("w1").kill()
	r.run(2 * time.Second)
	if n := r.founded(); n != 0 {
		t.Fatalf("%d members have founded a cluster with one that is gone", n)
	}
	r.host("w1").start()
	r.until("founded", func() bool { return r.founded() == 3 })
}

// Covers F1, F2: members whose disks are new join the cluster that one of them
// still belongs to, and found none beside it.
func TestF1NobodyFoundsOverAUsedMember(t *testing.T) {
	r := startedRig(t)
	cluster := r.host("w1").w.notes.cluster
	r.wipe("gw1", "gw2")
	r.host("gw1").start()
	r.host("gw2").start()
	r.run(5 * time.Second)
	for _, h := range r.hosts {
		if h.w != nil && h.w.raft != nil && h.w.notes.cluster != cluster {
			t.Errorf("%s belongs to a cluster that was founded over the data of w1", h.name)
		}
	}
}

// Covers F1: a cluster begins when all files say the same.
func TestF1FoundingNeedsEqualFiles(t *testing.T) {
	r := newRig(t, func(name, text string) string {
		if name == "w1" {
			return strings.Replace(text, "10.0.0.100/24", "10.0.0.101/24", 1)
		}
		return text
	})
	for _, h := range r.hosts {
		h.start()
	}
	r.run(2 * time.Second)
	if n := r.founded(); n != 0 {
		t.Fatalf("%d members have founded a cluster on files that differ", n)
	}
}

// Covers F1: the first configuration is the same bytes whatever the order of a
// file.
func TestF1GroupsDoNotDependOnTheFilesOrder(t *testing.T) {
	more := func(a, b string) func(string, string) string {
		vip := func(group, addr string) string {
			return "[[vip]]\naddress = \"" + addr + "\"\ninterface = \"eth0\"\ngroup = \"" + group + "\"\n"
		}
		both := map[string]string{"mail": vip("mail", "10.0.0.102/24"), "api": vip("api", "10.0.0.103/24")}
		return func(_, text string) string {
			return strings.Replace(text, "[[bucket]]", both[a]+both[b]+"[[bucket]]", 1)
		}
	}
	one, two := newRig(t, more("mail", "api")), newRig(t, more("api", "mail"))
	if membersDigest(one.hosts[0].cfg) != membersDigest(two.hosts[0].cfg) {
		t.Fatal("two orders of one file make two configurations")
	}
}

// Covers F1a: beats and raft frames of another cluster are nobody's business.
func TestF1aOtherClustersAreNobody(t *testing.T) {
	r := startedRig(t)
	w1, l := r.host("w1"), r.leader()
	r.isolate("w1")
	r.run(10 * time.Millisecond)
	l.w.sequence++ // as in sendBeats
	b := l.w.newBeat(r.now())
	raw := l.w.encodeBeat(b)
	other := append([]byte(nil), raw...)
	other[0] ^= 1
	p := w1.w.peers[l.name]
	for _, c := range []struct {
		raw  []byte
		want bool
	}{{other, false}, {raw, true}} {
		w1.mesh.config.Handler.OnBeat(l.name, 0, c.raw, r.now())
		w1.w.drain()
		if got := p.sequence == b.Sequence; got != c.want {
			t.Errorf("beat taken %v, want %v", got, c.want)
		}
	}

	dropped := func() uint64 { return w1.w.raft.Status(r.now()).Dropped }
	before := dropped()
	frame := append(append([]byte(nil), w1.w.notes.cluster[:]...), make([]byte, 8)...)
	frame = append(frame, "no raft message"...)
	other = append([]byte(nil), frame...)
	other[0] ^= 1
	w1.w.takeRaft(r.now(), l.name, other)
	if dropped() != before {
		t.Error("a raft frame of another cluster came as far as raft")
	}
	w1.w.takeRaft(r.now(), l.name, frame)
	if dropped() == before {
		t.Error("a raft frame of this cluster did not come as far as raft")
	}
}

// Covers F4: members whose data were all set aside found nothing together.
func TestF4SetAsideDataFoundNothing(t *testing.T) {
	r := startedRig(t)
	for _, h := range r.hosts {
		h.kill()
		if _, err := storage.SetAside(h.disk, "/data", "then"); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range r.hosts {
		h.start()
	}
	r.run(2 * time.Second)
	if n := r.founded(); n != 0 {
		t.Fatalf("%d members have founded an empty cluster over what was set aside", n)
	}
	if h := r.host("gw1").w.hello(); !h.Empty || !lostData(h) {
		t.Errorf("says %+v of itself", transport.Hello(h))
	}
}

// Covers F4: nor do others with one that may have the last of the data.
func TestF4OneSetAsideDataFoundsNothing(t *testing.T) {
	r := startedRig(t)
	w1 := r.host("w1")
	w1.kill()
	if _, err := storage.SetAside(w1.disk, "/data", "then"); err != nil {
		t.Fatal(err)
	}
	r.wipe("gw1", "gw2")
	for _, h := range r.hosts {
		h.start()
	}
	r.run(2 * time.Second)
	if n := r.founded(); n != 0 {
		t.Fatalf("%d members have founded an empty cluster over what was set aside", n)
	}
}
