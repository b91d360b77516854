package sim

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/node"
	"github.com/holdfast-ha/holdfast/internal/transport"
)

// segmentBytes of the simulated logs: small, so that every run sees many.
const segmentBytes = 64 << 10

// options of a worker's start.
func options(h *host, incarnation uint64) node.Options {
	return node.Options{Config: h.cfg, Incarnation: incarnation, GateMode: "tcx", Version: "sim", Logger: h.w.logger(h)}
}

// steps of a host whose disk is driven by a process.
func steps(p *process) *node.Steps {
	return &node.Steps{
		LogWork: p.logWork, Now: p.stepsNow, SegmentBytes: segmentBytes, ReserveBytes: segmentBytes,
		Pause: func(context.Context, time.Duration) error { return nil },
	}
}

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
