package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Sizes and numbers of linux/inet_diag.h and net/tcp_states.h.
const (
	diagRequestBytes = 56 // struct inet_diag_req_v2
	diagMessageBytes = 72 // struct inet_diag_msg
	diagIDOffset     = 4  // in the message: family, state, timer, retrans
	diagIDBytes      = 48 // struct inet_diag_sockid, cookie included
	diagBytecode     = 1  // INET_DIAG_REQ_BYTECODE
	diagSourceCond   = 7  // INET_DIAG_BC_S_COND

	// Established to LAST_ACK and CLOSING, and connections not accepted yet.
	tcpConversations = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT |
		1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
		1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING |
		1<<unix.BPF_TCP_NEW_SYN_RECV
	// A UDP socket is "established" when it is connected to a peer.
	udpConversations = 1 << unix.BPF_TCP_ESTABLISHED
)

// Destroyed counts the sockets that DestroySockets ended.
type Destroyed struct{ TCP, UDP int }

// DestroySockets ends every conversation of this host that uses addr as its
// local address: TCP connections in any state but TIME_WAIT and connected UDP
// sockets, of IPv4, IPv6 and of IPv4 mapped into IPv6. Their owners see
// ECONNABORTED at once, where they would else wait for retransmissions to an
// address that has moved.
//
// Listeners and unconnected UDP sockets stay: they wait for the next client
// and work again when the address comes back.
//
// It goes on after an error and returns all of them joined, with what it
// counted. Errors: ErrUnsupported when the kernel cannot list or destroy
// sockets (CONFIG_INET_DIAG_DESTROY), EPERM.
func (m *Manager) DestroySockets(addr netip.Addr) (Destroyed, error) {
	var d Destroyed
	if !addr.IsValid() {
		return d, errors.New("destroy sockets: no address given")
	}
	addr = addr.Unmap().WithZone("")
	m.diagMu.Lock()
	defer m.diagMu.Unlock()
	if err := m.openDiag(); err != nil {
		return d, fmt.Errorf("destroy sockets of %v: %w", addr, explainDiag(err))
	}
	families := []uint8{unix.AF_INET6}
	if addr.Is4() {
		families = append(families, unix.AF_INET)
	}
	var errs []error
	for _, f := range families {
		n, err := m.destroy(addr, f, unix.IPPROTO_TCP, tcpConversations)
		d.TCP += n
		errs = append(errs, err)
		n, err = m.destroy(addr, f, unix.IPPROTO_UDP, udpConversations)
		d.UDP += n
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return d, fmt.Errorf("destroy sockets of %v: %w", addr, err)
	}
	return d, nil
}

// openDiag opens the socket-diagnosis socket on first use. diagMu is held.
func (m *Manager) openDiag() error {
	if m.diag != nil {
		return nil
	}
	return m.ns.do(func() error {
		s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_INET_DIAG)
		if err != nil {
			return fmt.Errorf("open socket diagnosis: %w", err)
		}
		tv := unix.NsecToTimeval(netlinkTimeout.Nanoseconds())
		_ = s.SetSendTimeout(&tv)    // these two only store a number
		_ = s.SetReceiveTimeout(&tv) // in the socket object
		m.diag = &nl.SocketHandle{Socket: s}
		return nil
	})
}

func (m *Manager) diagRequest(kind, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: m.diag}
	return r
}

// destroy lists the sockets of one family and protocol, and ends each. The
// list is taken whole before the first is destroyed.
func (m *Manager) destroy(addr netip.Addr, family, protocol uint8, states uint32) (int, error) {
	list := m.diagRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	list.AddData(diagRequest{family: family, protocol: protocol, states: states})
	list.AddData(nl.NewRtAttr(diagBytecode, sourceFilter(addr)))
	sockets, err := list.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list sockets: %w", explainDiag(err))
	}
	count := 0
	var errs []error
	for _, s := range sockets {
		if len(s) < diagMessageBytes || !sourceIs(s, addr) {
			continue
		}
		kill := m.diagRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
		kill.AddData(diagRequest{
			family: s[0], protocol: protocol, states: states,
			id: [diagIDBytes]byte(s[diagIDOffset : diagIDOffset+diagIDBytes]),
		})
		_, err := kill.Execute(unix.NETLINK_INET_DIAG, 0)
		switch {
		case err == nil:
			count++
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
			// It ended by itself.
		case errors.Is(err, unix.EOPNOTSUPP):
			return count, fmt.Errorf("destroy socket: %w", explainDiag(err))
		default:
			errs = append(errs, fmt.Errorf("destroy socket: %w", explainDiag(err)))
		}
	}
	return count, errors.Join(errs...)
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	family, protocol uint8
	states           uint32
	id               [diagIDBytes]byte // as the kernel gave it
}

// Len implements nl.NetlinkRequestData.
func (r diagRequest) Len() int { return diagRequestBytes }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte {
	b := make([]byte, diagRequestBytes)
	b[0], b[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(b[4:], r.states)
	copy(b[8:], r.id[:])
	return b
}

// sourceFilter is a program of one instruction that the kernel runs on every
// socket, so that a host with very many of them does not send them all here.
// An IPv4 condition matches mapped addresses of IPv6 sockets too.
//
//	0       1     2       4        5       6     8      12
//	| code  | yes |   no  | family | length| pad | port | address |
func sourceFilter(addr netip.Addr) []byte {
	ip := addr.AsSlice()
	size := 12 + len(ip)
	b := make([]byte, size)
	b[0] = diagSourceCond
	b[1] = uint8(size)                                   // match: to the end, which accepts
	binary.NativeEndian.PutUint16(b[2:], uint16(size+4)) // else past the end, which rejects
	b[4] = unix.AF_INET6
	if addr.Is4() {
		b[4] = unix.AF_INET
	}
	b[5] = uint8(addr.BitLen())
	binary.NativeEndian.PutUint32(b[8:], ^uint32(0)) // port -1: any
	copy(b[12:], ip)
	return b
}

// sourceIs checks again what the filter promised: a wrong socket must not die.
func sourceIs(message []byte, addr netip.Addr) bool {
	source := message[diagIDOffset+4 : diagIDOffset+20]
	if message[0] == unix.AF_INET {
		return netip.AddrFrom4([4]byte(source[:4])) == addr
	}
	return netip.AddrFrom16([16]byte(source)).Unmap() == addr
}

func explainDiag(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w (CONFIG_INET_DIAG_DESTROY and its TCP and UDP parts are needed): %w", ErrUnsupported, err)
	}
	return explain(err)
}
