package transport

import (
	"errors"
	"fmt"
	"net/netip"
)

// NoteSockets are plain UDP sockets from which the guard, which has no
// Transport, sends notes. Open them while all is well.
type NoteSockets struct{ sockets []*udpSocket }

// OpenNoteSockets binds one socket, with a port of the kernel's choice, to
// each own address. Addresses need not be present yet. The own addresses are
// named because frames from a VIP do not pass a closed gate.
func OpenNoteSockets(own []netip.Addr) (*NoteSockets, error) {
	s := &NoteSockets{}
	for i, addr := range own {
		sock, err := openUDP(netip.AddrPortFrom(addr.Unmap(), 0), i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open note socket: %w", err), s.Close())
		}
		s.sockets = append(s.sockets, sock)
	}
	return s, nil
}

// Send sends every note to every target from every socket of its family,
// without blocking. It returns how many datagrams the kernel took, and an
// error only when it took none. Receivers drop the duplicates.
func (s *NoteSockets) Send(targets []netip.AddrPort, notes [][]byte) (int, error) {
	sent := 0
	last := errNoFamily
	for _, target := range targets {
		target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
		to := sockaddr(target)
		for _, sock := range s.sockets {
			if sock.addr.Addr().Is4() != target.Addr().Is4() {
				continue
			}
			for _, note := range notes {
				if err := sock.send(to, note); err != nil {
					last = err
					continue
				}
				sent++
			}
		}
	}
	if sent == 0 && len(targets) > 0 && len(notes) > 0 {
		return 0, fmt.Errorf("send notes: %w", last)
	}
	return sent, nil
}

// Close closes the sockets.
func (s *NoteSockets) Close() error {
	var errs []error
	for _, sock := range s.sockets {
		errs = append(errs, sock.conn.Close())
	}
	return errors.Join(errs...)
}

// SendNotes opens note sockets, sends and closes them again.
func SendNotes(own []netip.Addr, targets []netip.AddrPort, notes [][]byte) (int, error) {
	s, err := OpenNoteSockets(own)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }() // nothing is lost by it
	return s.Send(targets, notes)
}
