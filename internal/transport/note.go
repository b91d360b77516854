package transport

import "net/netip"

// NoteSockets are plain UDP sockets from which the guard, which has no
// Transport, sends notes. Open them while all is well.
type NoteSockets struct{}

// OpenNoteSockets binds one socket, with a port of the kernel's choice, to
// each own address. Addresses need not be present yet. The own addresses are
// named because frames from a VIP do not pass a closed gate.
func OpenNoteSockets(own []netip.Addr) (*NoteSockets, error) { return &NoteSockets{}, nil }

// Send sends every note to every target from every socket of its family,
// without blocking. It returns how many datagrams the kernel took, and an
// error only when it took none.
func (s *NoteSockets) Send(targets []netip.AddrPort, notes [][]byte) (int, error) { return 0, nil }

// Close closes the sockets.
func (s *NoteSockets) Close() error { return nil }

// SendNotes opens note sockets, sends and closes them again.
func SendNotes(own []netip.Addr, targets []netip.AddrPort, notes [][]byte) (int, error) {
	s, err := OpenNoteSockets(own)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	return s.Send(targets, notes)
}
