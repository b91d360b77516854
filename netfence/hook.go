package netfence

import (
	"errors"
	"net"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/bpf"
)

// direction is one of the two sides that a program is attached to.
type direction int

const (
	ingress direction = iota
	egress
)

var directions = [...]direction{ingress, egress}

func (d direction) String() string {
	if d == ingress {
		return "ingress"
	}
	return "egress"
}

// hook is one way to attach. Its methods run on a thread of the namespace.
type hook interface {
	// attach puts prog first at l, replacing what a guard before us attached
	// there without a gap. It does nothing when prog stands already.
	attach(l netlink.Link, d direction, prog *ebpf.Program) error
	// verify returns an error unless prog is the first to see packets.
	verify(l netlink.Link, d direction, prog *ebpf.Program) error
	// detach removes our program, whichever process attached it.
	detach(l netlink.Link, d direction) error
	// forget gives up what is held for an interface that is gone.
	forget(ifindex int) error
	// close gives up descriptors; what is attached stays.
	close() error
}

func isLoopback(l netlink.Link) bool { return l.Attrs().Flags&net.FlagLoopback != 0 }

// program picks the one for the link: without an Ethernet header the network
// header has to be found in another way, and there is no source MAC.
func (f *Fence) program(l netlink.Link, d direction) *ebpf.Program {
	ether := l.Attrs().EncapType == "ether"
	switch {
	case ether && d == ingress:
		return f.progs[bpf.GateProgHoldfastIn]
	case ether:
		return f.progs[bpf.GateProgHoldfastOut]
	case d == ingress:
		return f.progs[bpf.GateProgHoldfastInL3]
	}
	return f.progs[bpf.GateProgHoldfastOutL3]
}

// isGone tells whether an interface has vanished since it was listed.
func (n *namespace) isGone(ifindex int) bool {
	_, err := n.nl.LinkByIndex(ifindex)
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}
