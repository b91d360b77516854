package netfence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/bpf"
	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// MaxAhead is how far in the future a deadline may lie. No lease is longer; a
// greater value is an error of arithmetic, not a lease.
const MaxAhead = 60 * time.Second

// Gate is the worker's access to the gate. One goroutine owns it: all methods
// but Read, Counters and Events are for that goroutine only, and Close comes
// after every other call has returned.
type Gate struct {
	t           *tables
	incarnation uint64
	last        map[uint16]window // what Open wrote last, kept over CloseGroup
}

type window struct{ deadline, sent int64 }

// Value is one group's gate as the programs see it. Times are nanoseconds of
// CLOCK_BOOTTIME; 0 means none.
type Value struct {
	Deadline    int64
	Incarnation uint64
	Sent        int64
	Conflict    int64 // last claim of the VIP by another member
	Open        bool  // by the programs' rule, at the instant of reading
}

// OpenGate takes the files of Fence.GateFiles in their order; they stay the
// caller's. It binds the gate to the guard's present number: the caller checks
// Incarnation against its own. ErrClosedByGuard: that number is zero.
func OpenGate(files []*os.File) (*Gate, error) {
	if len(files) != len(mapNames) {
		return nil, fmt.Errorf("open gate: got %d files, want %d", len(files), len(mapNames))
	}
	spec, err := loadSpec()
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	maps := map[string]*ebpf.Map{}
	closeAll := func() {
		for _, m := range maps {
			_ = m.Close() // nothing was written
		}
	}
	for i, name := range mapNames {
		m, err := dupMap(files[i])
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("open gate map %s: %w", name, err)
		}
		maps[name] = m
		if err := spec.Maps[name].Compatible(m); err != nil {
			closeAll()
			return nil, fmt.Errorf("open gate map %s: %w", name, err)
		}
	}
	t, err := newTables(maps, false)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	n, err := t.number()
	if err == nil && n == 0 {
		err = fmt.Errorf("open gate: %w", ErrClosedByGuard)
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return &Gate{t: t, incarnation: n, last: map[uint16]window{}}, nil
}

func dupMap(f *os.File) (*ebpf.Map, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := c.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, dupErr
	}
	return ebpf.NewMapFromFD(fd)
}

// Incarnation is the guard's number that this gate writes its values with.
func (g *Gate) Incarnation() uint64 { return g.incarnation }

// Close gives the files back. It changes no value: a gate that is open stays
// open until its deadline.
func (g *Gate) Close() error { return g.t.close() }

// SetVIPs makes vips the complete list of guarded addresses. Add an address to
// an interface only after it returned, remove it before leaving it out.
func (g *Gate) SetVIPs(vips []VIP) error { return g.t.setVIPs(vips) }

// SetForwarding puts an interface behind a group's gate: while closed, what
// this host would forward from that interface is dropped at ingress.
func (g *Gate) SetForwarding(ifindex int, group uint16) error {
	return g.t.setForwarding(ifindex, group, true)
}

// ClearForwarding takes an interface out of the forwarding scope.
func (g *Gate) ClearForwarding(ifindex int) error { return g.t.setForwarding(ifindex, 0, false) }

// SetMembers names the MACs of the other members: a claim of a VIP from one of
// them closes the gate. The host's own MACs never count, whatever this says.
func (g *Gate) SetMembers(members map[[6]byte]uint64) error { return g.t.setMembers(members) }

// Block makes list the complete list of fenced members; nil ends all fencing.
func (g *Gate) Block(list []Blocked) error { return g.t.block(list) }

// Open lets the group's traffic pass until deadline, by a grant whose request
// left at sent; both are nanoseconds of CLOCK_BOOTTIME. Neither may go back for
// a group: that panics, as does a request from the future. A deadline more than
// MaxAhead away is refused, and ErrClosedByGuard tells that the guard has
// closed the gate for this worker for good. A conflict seen at or after sent
// keeps the gate closed without an error; Read shows it.
func (g *Gate) Open(group uint16, deadline, sent int64) error {
	if group >= MaxGroups {
		return fmt.Errorf("open gate: %w: group %d, at most %d", ErrLimit, group, MaxGroups-1)
	}
	now := clock.Boottime()
	if deadline > now+int64(MaxAhead) {
		return fmt.Errorf("open gate of group %d: deadline is %v ahead, at most %v", group, time.Duration(deadline-now), MaxAhead)
	}
	last := g.last[group]
	invariant.Check(sent > 0 && sent <= now, "group %d: request sent at %d, now is %d", group, sent, now)
	invariant.Check(deadline >= last.deadline && sent >= last.sent,
		"group %d: gate moves back from deadline %d, sent %d to deadline %d, sent %d",
		group, last.deadline, last.sent, deadline, sent)
	n, err := g.t.number()
	if err != nil {
		return fmt.Errorf("open gate of group %d: %w", group, err)
	}
	if n != g.incarnation {
		return fmt.Errorf("open gate of group %d: %w: number %d, this worker is %d", group, ErrClosedByGuard, n, g.incarnation)
	}
	g.last[group] = window{deadline, sent}
	// Programs may read between two stores. Every mix of an older and a newer
	// value of one incarnation is open no longer than the newer; the
	// incarnation comes last because zeros closed the rest.
	base := uintptr(group) * gateSize
	g.t.gates.store(base+gateSent, uint64(sent))
	g.t.gates.store(base+gateDeadline, uint64(deadline))
	g.t.gates.update(base+gateIncarnation, g.incarnation)
	return nil
}

// CloseGroup closes a group's gate and reads it back through the kernel. After
// nil no program that starts will pass the group's packets; those under way may
// take another millisecond (PROTOCOL G5).
func (g *Gate) CloseGroup(group uint16) error {
	if group >= MaxGroups {
		return fmt.Errorf("close gate: %w: group %d, at most %d", ErrLimit, group, MaxGroups-1)
	}
	g.t.zero(group)
	return g.t.isZero(group)
}

// Read returns a group's gate as the programs see it now.
func (g *Gate) Read(group uint16) (Value, error) {
	if group >= MaxGroups {
		return Value{}, fmt.Errorf("read gate: %w: group %d, at most %d", ErrLimit, group, MaxGroups-1)
	}
	var c bpf.GateConflict
	if err := g.t.maps["conflicts"].Lookup(uint32(group), &c); err != nil {
		return Value{}, explain(fmt.Sprintf("read conflicts of group %d", group), err)
	}
	base := uintptr(group) * gateSize
	v := Value{
		Deadline:    int64(g.t.gates.load(base + gateDeadline)),
		Incarnation: g.t.gates.load(base + gateIncarnation),
		Sent:        int64(g.t.gates.load(base + gateSent)),
		Conflict:    int64(c.Last),
	}
	number, err := g.t.number()
	if err != nil {
		return Value{}, err
	}
	v.Open = number != 0 && v.Incarnation == number && v.Sent > v.Conflict && clock.Boottime() < v.Deadline
	return v, nil
}

// counterNames are the keys of Counters, in the order of enum reason.
var counterNames = [...]string{
	bpf.GateReasonREASON_IP_IN:      "ip_in",
	bpf.GateReasonREASON_IP_OUT:     "ip_out",
	bpf.GateReasonREASON_IP6IN:      "ip6_in",
	bpf.GateReasonREASON_IP6OUT:     "ip6_out",
	bpf.GateReasonREASON_ARP_IN:     "arp_in",
	bpf.GateReasonREASON_ARP_OUT:    "arp_out",
	bpf.GateReasonREASON_ND_IN:      "nd_in",
	bpf.GateReasonREASON_ND_OUT:     "nd_out",
	bpf.GateReasonREASON_FORWARD:    "forward",
	bpf.GateReasonREASON_BLOCKED:    "blocked",
	bpf.GateReasonREASON_CONFLICT:   "conflict",
	bpf.GateReasonREASON_FOREIGN:    "foreign",
	bpf.GateReasonREASON_EVENT_LOST: "event_lost",
}

// Counters returns how many packets were dropped by each reason since the maps
// were made, and how many claims were seen: "conflict" of members, "foreign" of
// others, "event_lost" when Events did not keep up. Those three are no drops.
func (g *Gate) Counters() (map[string]uint64, error) {
	out := make(map[string]uint64, len(counterNames))
	for i, name := range counterNames {
		var perCPU []uint64
		if err := g.t.maps["counters"].Lookup(uint32(i), &perCPU); err != nil {
			return nil, explain("read counter "+name, err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}

// EventKind tells who claimed a VIP.
type EventKind uint8

const (
	// Conflict is a claim by another member; it has closed the gate.
	Conflict EventKind = EventKind(bpf.GateEventKindEVENT_CONFLICT)
	// Foreign is a claim by a stranger; it has changed nothing.
	Foreign EventKind = EventKind(bpf.GateEventKindEVENT_FOREIGN)
)

// Event is a claim of a VIP that was heard on the wire. There is at most one
// event per group, kind and 100 ms; the close itself happens at every claim.
type Event struct {
	Kind    EventKind
	Group   uint16
	MAC     [6]byte
	Node    uint64 // member that claimed; 0 for Foreign
	Ifindex int
	Time    int64 // nanoseconds of CLOCK_BOOTTIME
	WasOpen bool  // the gate was open just before
}

// Events calls f for each event until ctx ends, then returns nil. Only one call
// may run at a time; f must not block, a full buffer loses events.
func (g *Gate) Events(ctx context.Context, f func(Event)) error {
	r, err := ringbuf.NewReader(g.t.maps["events"])
	if err != nil {
		return explain("read gate events", err)
	}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { closed <- r.Close() }) // ends a waiting read
	end := func(err error) error {
		if stop() {
			return errors.Join(err, r.Close())
		}
		return <-closed
	}
	var rec ringbuf.Record
	for {
		if err := r.ReadInto(&rec); err != nil {
			return end(fmt.Errorf("read gate events: %w", err))
		}
		var e bpf.GateEvent
		if _, err := binary.Decode(rec.RawSample, binary.NativeEndian, &e); err != nil {
			return end(fmt.Errorf("read gate event of %d bytes: %w", len(rec.RawSample), err))
		}
		f(Event{EventKind(e.Kind), e.Group, e.Mac, e.Node, int(e.Ifindex), int64(e.Time), e.Open != 0})
	}
}
