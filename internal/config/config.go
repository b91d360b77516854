// Package config reads the one TOML file of a node into typed, validated
// values. It finds every problem of a file at once and names each with its
// line and key; it touches nothing but the file it is asked to read.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// Limits of a configuration. They bound what a node must keep in memory, on
// the wire (a beat has a fixed maximum size) and in kernel maps.
const (
	FileBytesMax       = 1 << 20
	MembersMax         = 15 // an odd number: raft majorities beyond 15 cost more than they give
	VIPsMax            = 64
	GroupsMax          = 8 // a beat has room for so many
	HooksMax           = 64
	BucketsMax         = 64
	AddressesMax       = 4  // paths of one member
	NameBytesMax       = 63 // as a DNS label
	CommandWordsMax    = 64
	CommandBytesMax    = 4096
	InterfaceBytesMax  = 15  // IFNAMSIZ - 1
	SocketPathBytesMax = 107 // sun_path without its final zero
)

// Defaults of the keys that may be left out. docs/configuration.md gives the
// reason of each.
const (
	DefaultFile         = "/etc/holdfast/holdfast.toml"
	DefaultDataDir      = "/var/lib/holdfast"
	DefaultRuntimeDir   = "/run/holdfast"
	DefaultKeyFile      = "/etc/holdfast/node.key"
	DefaultPriority     = 100
	DefaultGroup        = "default"
	DefaultProfile      = "default"
	DefaultPreemptDelay = 30 * time.Second
	DefaultFenceDelay   = 10 * time.Second
	DefaultListen       = "127.0.0.1:7401"
	DefaultMaxBytes     = 512 << 20
	DefaultSnapshot     = 16 << 20
	DefaultScrubEvery   = 24 * time.Hour
	DefaultSlowFsync    = 500 * time.Millisecond
	DefaultRPO          = 5 * time.Minute
	DefaultHookTimeout  = 10 * time.Second
)

// SocketName is the file name of the control socket in the runtime directory.
const SocketName = "control.sock"

// Config is one validated file. All of it was checked: a reader needs no
// second look at ranges, names or addresses.
type Config struct {
	File      string // as given to Load or Parse, for messages
	Cluster   string
	Node      Node
	Members   []Member // in file order; an odd number, at least 3, all of them voters
	VIPs      []VIP    // in file order, at least 1
	Timing    Timing
	Placement Placement
	Status    Status
	State     State
	Buckets   []Bucket // sessions, tasks and receipts first, then in file order
	Log       Log
	Hooks     []Hook // in file order, which is the order of running within a phase
}

// Node says who this node is and where it keeps its files (absolute paths).
type Node struct {
	Name       string
	DataDir    string
	RuntimeDir string
	KeyFile    string // not opened here: its mode is checked when the key is read
}

// Role of a member.
type Role string

// A gateway may hold VIPs; a witness only votes and stores.
const (
	Gateway Role = "gateway"
	Witness Role = "witness"
)

// Member is one voter of the cluster. PublicKey is a raw Ed25519 key.
type Member struct {
	Name      string
	Addresses []netip.AddrPort // one or more paths, none shared with another member
	PublicKey [32]byte
	Role      Role
	Priority  int // 1 to 1000, higher first
}

// Scope says what a closed gate drops.
type Scope string

// ScopeVIP drops traffic of the address only; ScopeForwarding also drops what
// the host would forward from the interface.
const (
	ScopeVIP        Scope = "vip"
	ScopeForwarding Scope = "forwarding"
)

// VIP is one floating address. VIPs of one group move together.
type VIP struct {
	Address   netip.Prefix // host bits kept: 10.77.0.100/24
	Interface string
	Group     string
	Scope     Scope
}

// Timing is the profile in force: a name, or "" when beat, promise and epsilon
// were set by hand, and the values with the lease derived from them.
type Timing struct {
	Profile string
	lease.Timing
}

// Placement says when a healthy holder is moved and when a silent member is
// fenced. FenceDelay 0 means by hand only.
type Placement struct {
	Preempt      bool
	PreemptDelay time.Duration
	FenceDelay   time.Duration
}

// Status is the read-only HTTP port; Listen "" means off.
type Status struct {
	Listen string // IP:port, or :port for all addresses
}

// State bounds the replicated state and says how its disk is watched.
type State struct {
	MaxBytes int64 // of all buckets
	// SnapshotBytes is how much log is written before the next snapshot; a
	// larger state waits for more.
	SnapshotBytes int64
	// ScrubEvery is the distance of two readings of the whole log and
	// snapshot; 0 means never.
	ScrubEvery time.Duration
	// SlowFsync is the time above which a sync of the log counts as slow.
	SlowFsync time.Duration
}

// Bucket is a named part of the state with its objective for the loss of the
// whole site.
type Bucket struct {
	Name string
	RPO  time.Duration
}

// Log says what is logged and in which form: auto, text or json.
type Log struct {
	Level  slog.Level
	Format string
}

// Phase is the moment at which a hook runs.
type Phase string

// Phases in the order of a holder's life. Unhealthy and fenced stand outside
// that order.
const (
	PreAcquire Phase = "pre-acquire"
	Acquired   Phase = "acquired"
	PreRelease Phase = "pre-release"
	Released   Phase = "released"
	Unhealthy  Phase = "unhealthy"
	Fenced     Phase = "fenced"
)

// Phases lists every phase that a hook may name.
func Phases() []Phase {
	return []Phase{PreAcquire, Acquired, PreRelease, Released, Unhealthy, Fenced}
}

// Hook is a command of the operator. Command[0] is an absolute path; no shell
// is involved.
type Hook struct {
	Phase   Phase
	Command []string
	Timeout time.Duration
}

// Load reads and validates the file at path. The error is Problems when the
// content is at fault, or wraps the error of opening or reading the file.
func Load(path string) (*Config, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(file, FileBytesMax+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return text, nil
}

// Self is the entry of this node among the members.
func (c *Config) Self() Member {
	self, ok := c.Member(c.Node.Name)
	if !ok {
		panic(fmt.Sprintf("config: node %q is not a member of a validated configuration", c.Node.Name))
	}
	return self
}

// Member finds a member by name.
func (c *Config) Member(name string) (Member, bool) {
	for _, m := range c.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Groups lists the VIP groups in the order of their first VIP: the group ids
// of a first configuration.
func (c *Config) Groups() []string {
	var groups []string
	seen := map[string]bool{}
	for _, v := range c.VIPs {
		if !seen[v.Group] {
			seen[v.Group] = true
			groups = append(groups, v.Group)
		}
	}
	return groups
}

// SocketPath is where the control socket of this node lives.
func (c *Config) SocketPath() string { return c.Node.RuntimeDir + "/" + SocketName }

// Warnings are choices that are allowed but that an operator should know of.
func (c *Config) Warnings() []string {
	var warnings []string
	gateways := 0
	for _, m := range c.Members {
		if m.Role == Gateway {
			gateways++
		}
	}
	if gateways == 1 {
		warnings = append(warnings, "only one member is a gateway: nothing can take over from it")
	}
	if c.Placement.FenceDelay == 0 {
		warnings = append(warnings, "placement.fence_delay is 0s: a silent member is fenced by hand only")
	}
	return warnings
}
