package sim

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/node"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
	"github.com/holdfast-ha/holdfast/vip"
)

// Env is what one run of a worker gets of its simulated host.
type Env struct {
	Clock  clock.Source
	Wall   func() time.Time
	Random *rand.Rand
	FS     vfs.FS
	Gate   node.Gate // nil on a witness
	VIPs   node.VIPs // nil on a witness
	Link   node.Link
	Mesh   func(transport.Config) (node.Mesh, error)
	Sleep  func(time.Duration)
	// Go runs a job beside the loop, in an event of its own.
	Go func(job func())
	// Queue returns where jobs are put that are done one after the other.
	Queue func() (submit func(job func()) bool)
	// LogWork says that Machine.Disk has something to do.
	LogWork func()
	// Now is the clock by which durations of writes are measured.
	Now    func() time.Time
	Logger *slog.Logger
}

// Machine is one run of a worker, the product's own code. Its methods are
// called from one goroutine.
type Machine interface {
	// Turn drains its inbox and does one turn of its loop. next is the local
	// boottime at which it wants the next one. ended: it was its last, and err
	// is the reason, nil after a planned stop.
	Turn() (next int64, ended bool, err error)
	// Disk lets the log write what it was given; false if that was nothing.
	Disk() bool
	// Busy tells whether a turn has something to take.
	Busy() bool
	// Stop begins a planned stop.
	Stop()
	Guard(guard.Event)
	VIP(vip.Event)
	Gate(netfence.Event)
	Write(kv.Request, func(kv.Result, *control.Error))
	Read(func(*kv.View, *control.Error))
	// Local returns what was applied here, nil before the founding.
	Local() *kv.View
	// Ask puts an operation to the leader: failover, maintenance, fence,
	// unfence, member.
	Ask(op string, body any, done func(json.RawMessage, *control.Error))
	Look() node.Look
	// Entries returns log entries with lo <= index < hi, as far as they are
	// still there.
	Entries(lo, hi uint64) []*raftpb.Entry
	State() *storage.State // to be read only
	Trail() *audit.Trail   // to be read only
}

var _ Machine = (*node.Stepped)(nil)

// segmentBytes of the simulated logs: small, so that every run sees many.
const segmentBytes = 64 << 10

// StartMachine starts a worker on a host. An error is why it has ended at once.
func StartMachine(cfg *config.Config, key ed25519.PrivateKey, incarnation uint64, e Env) (Machine, error) {
	h := node.Host{
		Clock: e.Clock, Wall: e.Wall, Sleep: e.Sleep, Random: e.Random, FS: e.FS, Key: key,
		Link: e.Link, Gate: e.Gate, VIPs: e.VIPs, Hooks: noHooks{}, Mesh: e.Mesh, Go: e.Go,
		Queue: func(int) node.Queue { return queue(e.Queue()) },
		Steps: &node.Steps{
			LogWork: e.LogWork, Now: e.Now, SegmentBytes: segmentBytes, ReserveBytes: segmentBytes,
			Pause: func(context.Context, time.Duration) error { return nil },
		},
	}
	o := node.Options{Config: cfg, Incarnation: incarnation, GateMode: "tcx", Version: "sim", Logger: e.Logger}
	m, err := node.Step(o, h)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// queue is a row of jobs that the host does.
type queue func(job func()) bool

func (q queue) Submit(job func()) bool { return q(job) }
func (q queue) Close()                 {}

// noHooks is a host whose operator configured none.
type noHooks struct{}

func (noHooks) Run(hooks.Event, func(error)) (bool, error) { return false, nil }
func (noHooks) SetHooks([]hooks.Hook)                      {}
func (noHooks) Close(time.Duration)                        {}

// MemberSetup is one member of a simulated cluster.
type MemberSetup struct {
	Name     string
	Witness  bool
	Priority int // 0 = the default
	Key      ed25519.PrivateKey
	Address  string // IP:port
}

// Interface is the interface of every host that carries the VIPs.
const Interface = "eth0"

// DataDir and RuntimeDir are where every host keeps its files.
const (
	DataDir    = "/var/lib/holdfast"
	RuntimeDir = "/run/holdfast"
)

// Configure returns the configuration of the member named self; vips are
// prefixes, each a group of its own.
func Configure(self, profile string, vips []string, members []MemberSetup) (*config.Config, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster = \"sim\"\n[node]\nname = %q\ndata_dir = %q\nruntime_dir = %q\nkey_file = \"/etc/holdfast/node.key\"\n", self, DataDir, RuntimeDir)
	fmt.Fprintf(&b, "[timing]\nprofile = %q\n[state]\nscrub_every = \"5s\"\n", profile)
	for _, m := range members {
		role := "gateway"
		if m.Witness {
			role = "witness"
		}
		fmt.Fprintf(&b, "[[member]]\nname = %q\nrole = %q\naddresses = [%q]\npublic_key = %q\n", m.Name, role, m.Address,
			transport.EncodePublicKey(m.Key.Public().(ed25519.PublicKey)))
		if m.Priority != 0 {
			fmt.Fprintf(&b, "priority = %d\n", m.Priority)
		}
	}
	for i, v := range vips {
		fmt.Fprintf(&b, "[[vip]]\naddress = %q\ninterface = %q\ngroup = \"g%d\"\n", v, Interface, i+1)
	}
	for _, name := range []string{"sessions", "tasks", "receipts"} {
		fmt.Fprintf(&b, "[[bucket]]\nname = %q\n", name)
	}
	cfg, err := config.Parse("sim.toml", []byte(b.String()))
	if err != nil {
		return nil, err
	}
	// Below what a file may say, so that every run compacts its log.
	cfg.State.SnapshotBytes = 48 << 10
	return cfg, nil
}
