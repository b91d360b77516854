package node

import (
	"context"
	"crypto/ed25519"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/vip"
)

// Host is all that a worker has of the machine that it runs on. Run takes it
// from the kernel; a simulator brings its own, and then one goroutine can carry
// many workers through their lives (see Step). What decides never looks past
// it.
type Host struct {
	// Clock is CLOCK_BOOTTIME.
	Clock clock.Source
	// Wall is the time of day, for what people read; nothing rests on it.
	Wall func() time.Time
	// Sleep waits in the loop itself, for a millisecond or two at its end.
	Sleep func(time.Duration)
	// Random belongs to the loop. Nothing secret is drawn from it.
	Random *rand.Rand
	// FS holds data and runtime directory.
	FS  vfs.FS
	Key ed25519.PrivateKey
	// Link leads to the guard.
	Link Link
	// Gate and VIPs are nil on a witness, which never holds.
	Gate  Gate
	VIPs  VIPs
	Hooks Hooks
	// Mesh connects to the other members; what it returns runs until its Close.
	Mesh func(transport.Config) (Mesh, error)
	// Go runs a job beside the loop, which may wait for disk or kernel.
	Go func(job func())
	// Queue returns a row of jobs that are done one after the other, at most
	// limit of them waiting.
	Queue func(limit int) Queue
	// Steps, unless nil, is told when the log has work: it writes only in
	// Stepped.Disk. nil gives it goroutines of its own.
	Steps *Steps
}

// Steps is how a simulator drives the disk.
type Steps struct {
	// LogWork says that Stepped.Disk has something to do.
	LogWork func()
	// Now is the clock by which durations of writes are measured.
	Now func() time.Time
	// SegmentBytes is the length of a segment of the log, 0 for the usual one.
	SegmentBytes int64
	// ReserveBytes is the length of the reserve file, 0 for the usual one.
	ReserveBytes int64
	// Pause stands for the pauses that background work makes for the sake of
	// a busy disk.
	Pause func(context.Context, time.Duration) error
}

// Queue is a row of jobs.
type Queue interface {
	// Submit adds a job, and tells whether there was room.
	Submit(job func()) bool
	// Close takes no more; what was given is still done.
	Close()
}

// Link is the worker's end of the connection to its guard (guard.Link).
type Link interface {
	Events() <-chan guard.Event
	Beat()
	Testify(guard.Testament) error
	Ready() error
	Stopping() error
	Close() error
}

// Gate is the kernel's gate (netfence.Gate).
type Gate interface {
	Incarnation() uint64
	SetVIPs([]netfence.VIP) error
	SetForwarding(ifindex int, group uint16) error
	ClearForwarding(ifindex int) error
	SetMembers(map[[6]byte]uint64) error
	Block([]netfence.Blocked) error
	Open(group uint16, deadline, sent int64) error
	CloseGroup(group uint16) error
	Read(group uint16) (netfence.Value, error)
	Counters() (map[string]uint64, error)
	Events(context.Context, func(netfence.Event)) error
	Close() error
}

// VIPs are the addresses and interfaces of this host (vip.Manager).
type VIPs interface {
	Interface(name string) (vip.Interface, error)
	Add(vip.Address) error
	Remove(vip.Address) error
	RemoveStrays([]netip.Addr) ([]vip.Stray, error)
	DestroySockets(netip.Addr) (vip.Destroyed, error)
	Neighbours([]netip.Addr) (map[netip.Addr][]vip.MAC, error)
	Announce(addr netip.Addr, iface string) error
	Watch(context.Context) (<-chan vip.Event, error)
	Close() error
}

// Hooks run the operator's commands (hooks.Runner).
type Hooks interface {
	Run(e hooks.Event, done func(error)) (queued bool, err error)
	SetHooks([]hooks.Hook)
	Close(limit time.Duration)
}

// Mesh connects to the other members (transport.Transport).
type Mesh interface {
	Send(peer string, ch transport.Channel, kind uint8, payload []byte) error
	SendBeat(peer string, payload []byte) int
	SendNote(note []byte) int
	SetMembers([]transport.Member) error
	RTT(peer string) time.Duration
	RTTMax(peer string) time.Duration
	Stats() transport.Stats
	Close() error
}

var (
	_ Link  = (*guard.Link)(nil)
	_ Gate  = (*netfence.Gate)(nil)
	_ VIPs  = (*vip.Manager)(nil)
	_ Hooks = (*hooks.Runner)(nil)
	_ Mesh  = (*transport.Transport)(nil)
)
