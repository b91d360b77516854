package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// claimEvery is how often a thief announces the address.
const claimEvery = 50 * time.Millisecond

// Steal makes a node that has no right to an address take it, as a host does
// that was given it by mistake: it has the address on eth0, so that its kernel
// answers for it, and announces it again and again. Undo ends both. A probe
// has to name the node as a stranger.
func (l *Lab) Steal(node string, vip netip.Prefix) (*Fault, error) {
	n, err := l.Node(node)
	if err != nil {
		return nil, fmt.Errorf("steal %v: %w", vip, err)
	}
	f, err := l.announce(fmt.Sprintf("%s steals %v", node, vip.Addr()), n, vip.Addr(), n.NICs[0].MAC)
	if err != nil {
		return nil, err
	}
	stop := f.undo
	f.undo = func() error { return errors.Join(stop(), l.removeAddress(node, vip.Addr())) }
	if err := l.AddAddress(node, n.NICs[0].Name, vip); err != nil {
		return nil, errors.Join(err, f.Undo())
	}
	return f, nil
}

// Forge makes a node announce an address as that of another node's eth0, again
// and again: a replay, or an attack. It does not answer for the address, but
// the bridge believes that the other node is where the thief is, until that
// one is heard again. Undo ends it.
func (l *Lab) Forge(node string, vip netip.Addr, as string) (*Fault, error) {
	n, err := l.Node(node)
	if err != nil {
		return nil, fmt.Errorf("forge %v: %w", vip, err)
	}
	victim, err := l.Node(as)
	if err != nil {
		return nil, fmt.Errorf("forge %v: %w", vip, err)
	}
	return l.announce(fmt.Sprintf("%s announces %v as %s", node, vip, as), n, vip, victim.NICs[0].MAC)
}

// announce announces an address from a node's eth0 until the fault is undone.
func (l *Lab) announce(name string, n *Node, vip netip.Addr, mac net.HardwareAddr) (*Fault, error) {
	fd := -1
	err := l.Do(n.Name, func() error {
		nic, err := net.InterfaceByName(n.NICs[0].Name)
		if err != nil {
			return err
		}
		// Protocol 0: it receives nothing.
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: nic.Index})
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("open socket of a thief on %s: %w", n.Name, err)
	}
	frame := announcement(vip, mac)
	quit := make(chan struct{})
	var done sync.WaitGroup
	f := &Fault{Name: name, At: Now()}
	f.undo = func() error {
		close(quit)
		done.Wait()
		l.logger.Info("fault undone", "name", name)
		return unix.Close(fd)
	}
	done.Go(func() {
		ticker := time.NewTicker(claimEvery)
		defer ticker.Stop()
		for {
			_, _ = unix.Write(fd, frame) // its own cable may be down
			select {
			case <-quit:
				return
			case <-ticker.C:
			}
		}
	})
	l.undoAtClose(f)
	l.logger.Info("fault", "name", name)
	return f, nil
}

// announcement is the frame by which a host says to all that an address is
// its own: an ARP announcement (RFC 5227) or an unsolicited neighbour
// advertisement (RFC 4861 7.2.6).
func announcement(a netip.Addr, mac net.HardwareAddr) []byte {
	if a.Is4() {
		return arpQuestion(a, mac, a) // sender and target are the same address
	}
	src, all := a.As16(), [16]byte{0xff, 0x02, 15: 1}
	icmp := make([]byte, 0, 32)
	icmp = append(icmp, ndAdvert, 0, 0, 0, 0x20, 0, 0, 0) // override
	icmp = append(icmp, src[:]...)
	icmp = append(icmp, 2, 1) // target link-layer address
	icmp = append(icmp, mac...)
	binary.BigEndian.PutUint16(icmp[2:], icmpv6Sum(src, all, icmp))
	f := make([]byte, 0, 86)
	f = append(f, 0x33, 0x33, 0, 0, 0, 1)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255)
	f = append(f, src[:]...)
	f = append(f, all[:]...)
	return append(f, icmp...)
}
