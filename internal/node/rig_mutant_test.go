package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/tenure"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/vip"
)

// A rig is gw1, gw2 and w1 on fake hosts with one clock, moved by one
// goroutine: the smallest cluster in which a rule of package node can be seen
// to be kept. It knows no faults but those that a test makes by hand.
type rig struct {
	t     *testing.T
	clock *clock.Fake
	wall  time.Time
	hosts []*rigHost
	// lost tells whether what one member sends to another is lost.
	lost func(from, to string) bool
}

// rigHost is a host with one worker.
type rigHost struct {
	r       *rig
	name    string
	cfg     *config.Config
	key     ed25519.PrivateKey
	disk    *vfs.Mem
	fsys    vfs.FS
	inc     uint64
	gate    *rigGate
	link    *rigLink
	mesh    *rigMesh
	jobs    []func()
	stepped *Stepped
	w       *worker // of stepped, nil when it has ended
	next    int64
	err     error // why it ended
	info    vip.Interface
}

const rigGroup = uint16(0)

// newRig makes the hosts and starts no worker. change may change a file.
func newRig(t *testing.T, change func(name, text string) string) *rig {
	t.Helper()
	r := &rig{t: t, clock: clock.NewFake(int64(time.Hour)), wall: time.Unix(1_700_000_000, 0), lost: func(string, string) bool { return false }}
	names := []string{"gw1", "gw2", "w1"}
	keys := map[string]ed25519.PrivateKey{}
	for _, name := range names {
		seed := sha256.Sum256([]byte(name))
		keys[name] = ed25519.NewKeyFromSeed(seed[:])
	}
	for i, name := range names {
		var b strings.Builder
		fmt.Fprintf(&b, "cluster = \"rig\"\n[node]\nname = %q\ndata_dir = \"/data\"\nruntime_dir = \"/run\"\nkey_file = \"/key\"\n", name)
		for j, m := range names {
			role := "gateway"
			if m == "w1" {
				role = "witness"
			}
			fmt.Fprintf(&b, "[[member]]\nname = %q\nrole = %q\naddresses = [\"10.0.0.%d:7400\"]\npublic_key = %q\n", m, role, j+1,
				transport.EncodePublicKey(keys[m].Public().(ed25519.PublicKey)))
		}
		b.WriteString("[[vip]]\naddress = \"10.0.0.100/24\"\ninterface = \"eth0\"\ngroup = \"web\"\n[[bucket]]\nname = \"tasks\"\n")
		text := b.String()
		if change != nil {
			text = change(name, text)
		}
		cfg, err := config.Parse(name+".toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		h := &rigHost{r: r, name: name, cfg: cfg, key: keys[name], disk: vfs.NewMem(), inc: uint64(100 * (i + 1))}
		h.fsys = h.disk
		h.info = vip.Interface{Name: "eth0", Index: 2, MAC: vip.MAC{2, 0, 0, 0, 0, byte(i + 1)}, Up: true, Carrier: true}
		if err := h.disk.MkdirAll("/run", 0o700); err != nil {
			t.Fatal(err)
		}
		r.hosts = append(r.hosts, h)
	}
	return r
}

// startedRig is a rig whose group is held.
func startedRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, nil)
	for _, h := range r.hosts {
		h.start()
	}
	r.until("a holder", func() bool { return r.holding() != nil })
	r.run(time.Second)
	return r
}

func (r *rig) host(name string) *rigHost {
	for _, h := range r.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// holding returns the host whose worker holds the group, nil for none.
func (r *rig) holding() *rigHost {
	for _, h := range r.hosts {
		if h.w != nil && h.w.raft != nil && h.state() == tenure.Holding {
			return h
		}
	}
	return nil
}

// holder is holding of a test that needs one.
func (r *rig) holder() *rigHost {
	r.t.Helper()
	h := r.holding()
	if h == nil {
		r.t.Fatal("nobody holds the group")
	}
	return h
}

// standby is the gateway that does not hold.
func (r *rig) standby() *rigHost {
	if r.holder().name == "gw1" {
		return r.host("gw2")
	}
	return r.host("gw1")
}

// leader returns the host whose worker leads.
func (r *rig) leader() *rigHost {
	r.t.Helper()
	for _, h := range r.hosts {
		if h.w != nil && h.w.raft != nil && h.w.raft.Leads() {
			return h
		}
	}
	r.t.Fatal("nobody leads")
	return nil
}

// isolate loses everything to and from the named members.
func (r *rig) isolate(names ...string) {
	r.lost = func(from, to string) bool {
		for _, name := range names {
			if from == name || to == name {
				return true
			}
		}
		return false
	}
}

// run lets so much time pass, in steps of a millisecond.
func (r *rig) run(d time.Duration) {
	for range d / time.Millisecond {
		r.clock.Advance(time.Millisecond)
		r.wall = r.wall.Add(time.Millisecond)
		for _, h := range r.hosts {
			h.turn(false)
		}
	}
}

// until lets time pass until something is so.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for range 20_000 {
		if ok() {
			return
		}
		r.run(time.Millisecond)
	}
	r.t.Fatalf("never: %s", what)
}

func (r *rig) now() int64 { return r.clock.Boottime() }

// start starts a worker under a new incarnation.
func (h *rigHost) start() {
	h.r.t.Helper()
	h.inc++
	h.gate = &rigGate{number: h.inc, clock: h.r.clock}
	h.link = &rigLink{events: make(chan guard.Event, 16), acks: true}
	h.jobs, h.err = nil, nil
	host := Host{
		Clock: h.r.clock, Wall: func() time.Time { return h.r.wall },
		Sleep:  h.r.clock.Advance,
		Random: rand.New(rand.NewPCG(h.inc, 7)), FS: h.fsys, Key: h.key, Link: h.link,
		Hooks: rigHooks{}, Mesh: h.openMesh,
		Go:    func(job func()) { h.jobs = append(h.jobs, job) },
		Queue: func(int) Queue { return (*rigQueue)(h) },
		Steps: &Steps{
			LogWork: func() {}, Now: func() time.Time { return h.r.wall }, SegmentBytes: 64 << 10, ReserveBytes: 64 << 10,
			Pause: func(context.Context, time.Duration) error { return nil },
		},
	}
	if h.name != "w1" {
		host.Gate, host.VIPs = h.gate, &rigVIPs{h: h}
	}
	s, err := Step(Options{Config: h.cfg, Incarnation: h.inc, GateMode: "tcx", Version: "rig", Logger: slog.New(slog.DiscardHandler)}, host)
	if err != nil {
		h.r.t.Fatalf("%s: %v", h.name, err)
	}
	h.stepped, h.w, h.next = s, s.w, 0
	h.connect()
}

// connect brings up the connections to the others that run.
func (h *rigHost) connect() {
	for _, other := range h.r.hosts {
		if other != h && other.w != nil {
			h.mesh.up(other)
			other.mesh.up(h)
		}
	}
}

// kill ends the worker as SIGKILL does, and nobody says so.
func (h *rigHost) kill() {
	_ = h.w.data.Close() // the kernel ends the lock of a process that is gone; else it is closed already
	h.stepped, h.w = nil, nil
	for _, other := range h.r.hosts {
		if other.w != nil {
			other.mesh.config.Handler.OnPeer(transport.PeerEvent{Peer: h.name, Err: errors.New("gone")})
		}
	}
}

// turn gives the worker a turn if it wants one, or must has it take one.
func (h *rigHost) turn(must bool) {
	if h.w == nil {
		return
	}
	for range 100 {
		if !must && h.r.now() < h.next && !h.stepped.Busy() {
			return
		}
		must = false
		next, ended, err := h.stepped.Turn()
		if ended {
			h.kill()
			h.err = err
			return
		}
		h.next = next
		h.work()
	}
}

// work does what is to be done beside the loop.
func (h *rigHost) work() {
	for h.w != nil && (len(h.jobs) > 0 || h.stepped.Disk()) {
		if len(h.jobs) > 0 {
			job := h.jobs[0]
			h.jobs = h.jobs[1:]
			job()
		}
	}
}

func (h *rigHost) group() *group { return h.w.groupByID(rigGroup) }

func (h *rigHost) state() tenure.State {
	g := h.group()
	if g == nil {
		return tenure.Idle
	}
	s, _ := g.tenure.State()
	return s
}

type rigQueue rigHost

func (q *rigQueue) Submit(job func()) bool { q.jobs = append(q.jobs, job); return true }
func (q *rigQueue) Close()                 {}

type rigHooks struct{}

func (rigHooks) Run(hooks.Event, func(error)) (bool, error) { return false, nil }
func (rigHooks) SetHooks([]hooks.Hook)                      {}
func (rigHooks) Close(time.Duration)                        {}

// rigLink is a guard that acknowledges.
type rigLink struct {
	events chan guard.Event
	acks   bool
}

func (l *rigLink) Events() <-chan guard.Event { return l.events }
func (l *rigLink) Beat()                      {}
func (l *rigLink) Ready() error               { return nil }
func (l *rigLink) Stopping() error            { return nil }
func (l *rigLink) Close() error               { return nil }
func (l *rigLink) Testify(guard.Testament) error {
	if l.acks && len(l.events) < cap(l.events) {
		l.events <- guard.Event{Kind: guard.Acknowledged}
	}
	return nil
}

// rigGate is the kernel's gate of one group.
type rigGate struct {
	clock          *clock.Fake
	number         uint64
	deadline, sent int64
	fails          error // of CloseGroup
}

func (g *rigGate) Incarnation() uint64                  { return g.number }
func (g *rigGate) SetVIPs([]netfence.VIP) error         { return nil }
func (g *rigGate) SetForwarding(int, uint16) error      { return nil }
func (g *rigGate) ClearForwarding(int) error            { return nil }
func (g *rigGate) SetMembers(map[[6]byte]uint64) error  { return nil }
func (g *rigGate) Block([]netfence.Blocked) error       { return nil }
func (g *rigGate) Counters() (map[string]uint64, error) { return nil, nil }
func (g *rigGate) Close() error                         { return nil }
func (g *rigGate) open() bool                           { return g.clock.Boottime() < g.deadline }
func (g *rigGate) Read(uint16) (netfence.Value, error) {
	return netfence.Value{Deadline: g.deadline, Sent: g.sent}, nil
}
func (g *rigGate) Open(_ uint16, deadline, sent int64) error {
	g.deadline, g.sent = deadline, sent
	return nil
}
func (g *rigGate) CloseGroup(uint16) error {
	if g.fails == nil {
		g.deadline, g.sent = 0, 0
	}
	return g.fails
}
func (g *rigGate) Events(context.Context, func(netfence.Event)) error { return nil }

// rigVIPs are the addresses of a host, which all go on without resistance.
type rigVIPs struct{ h *rigHost }

func (v *rigVIPs) Interface(string) (vip.Interface, error)                   { return v.h.info, nil }
func (v *rigVIPs) Add(vip.Address) error                                     { return nil }
func (v *rigVIPs) Remove(vip.Address) error                                  { return nil }
func (v *rigVIPs) RemoveStrays([]netip.Addr) ([]vip.Stray, error)            { return nil, nil }
func (v *rigVIPs) DestroySockets(netip.Addr) (vip.Destroyed, error)          { return vip.Destroyed{}, nil }
func (v *rigVIPs) Neighbours([]netip.Addr) (map[netip.Addr][]vip.MAC, error) { return nil, nil }
func (v *rigVIPs) Announce(netip.Addr, string) error                         { return nil }
func (v *rigVIPs) Watch(context.Context) (<-chan vip.Event, error)           { return nil, nil }
func (v *rigVIPs) Close() error                                              { return nil }

// rigMesh delivers at once what is not lost.
type rigMesh struct {
	h      *rigHost
	config transport.Config
	beats  int // sent
	notes  []rigNote
	frames [][]byte // beats sent last
}

// rigNote is a note that was sent as a datagram, and whether the gate was open.
type rigNote struct {
	raw      []byte
	gateOpen bool
}

func (h *rigHost) openMesh(c transport.Config) (Mesh, error) {
	h.mesh = &rigMesh{h: h, config: c}
	return h.mesh, nil
}

// up reports a connection, unless the two do not go together.
func (m *rigMesh) up(to *rigHost) {
	theirs, ours := to.mesh.config.Hello(), m.config.Hello()
	none := [16]byte{}
	if theirs.ClusterID != ours.ClusterID && theirs.ClusterID != none && ours.ClusterID != none {
		return
	}
	m.config.Handler.OnPeer(transport.PeerEvent{Peer: to.name, Up: true, Hello: theirs})
}

// target is where something for a member goes, nil when it is lost.
func (m *rigMesh) target(name string) transport.Handler {
	to := m.h.r.host(name)
	if to == nil || to.w == nil || m.h.r.lost(m.h.name, name) {
		return nil
	}
	return to.mesh.config.Handler
}

func (m *rigMesh) Send(name string, ch transport.Channel, kind uint8, payload []byte) error {
	if t := m.target(name); t != nil {
		t.OnMessage(m.h.name, ch, kind, append([]byte(nil), payload...))
	}
	return nil
}

func (m *rigMesh) SendBeat(name string, payload []byte) int {
	m.beats++
	m.frames = append(m.frames[max(0, len(m.frames)-8):], append([]byte(nil), payload...))
	if t := m.target(name); t != nil {
		t.OnBeat(m.h.name, 0, append([]byte(nil), payload...), m.h.r.now())
	}
	return 1
}

func (m *rigMesh) SendNote(note []byte) int {
	m.notes = append(m.notes, rigNote{append([]byte(nil), note...), m.h.gate.open()})
	for _, h := range m.h.r.hosts {
		if t := m.target(h.name); t != nil && h != m.h {
			t.OnNote(append([]byte(nil), note...), netip.AddrPort{})
		}
	}
	return 1
}

func (m *rigMesh) SetMembers([]transport.Member) error { return nil }
func (m *rigMesh) RTT(string) time.Duration            { return 200 * time.Microsecond }
func (m *rigMesh) RTTMax(string) time.Duration         { return 200 * time.Microsecond }
func (m *rigMesh) Stats() transport.Stats              { return transport.Stats{} }
func (m *rigMesh) Close() error                        { return nil }

// propose has the leader propose a command, and waits until all have applied it.
func (r *rig) propose(op storage.Op) {
	r.t.Helper()
	l := r.leader()
	data, err := storage.Command{At: 1, Op: op}.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := l.w.raft.Propose(r.now(), data); err != nil {
		r.t.Fatal(err)
	}
	index := l.w.raft.Status(r.now()).LastIndex
	l.turn(true)
	r.until("entry applied everywhere", func() bool {
		for _, h := range r.hosts {
			if h.w != nil && h.w.appliedIndex() < index {
				return false
			}
		}
		return true
	})
}

// The rig itself: it founds, holds, and moves the group when the holder dies.
func TestRigLives(t *testing.T) {
	r := startedRig(t)
	first := r.holder()
	if !first.gate.open() || r.standby().gate.open() {
		t.Fatal("the gates are wrong")
	}
	first.kill()
	r.until("the group moves", func() bool { h := r.holding(); return h != nil && h != first && h.gate.open() })
	first.start()
	r.run(3 * time.Second)
	if h := r.holder(); h == first {
		t.Fatal("the group moved back")
	}
}
