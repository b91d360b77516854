package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Lan names the namespace that holds the bridge. Faults and the passive
// capture live in it, where no member can notice them.
const Lan = "lan"

// Addresses of a lab. Every lab has the same; none leaves its namespaces.
var (
	// VIP4 is the floating IPv4 address.
	VIP4 = netip.MustParsePrefix("10.77.0.100/24")
	// VIP6 is the floating IPv6 address.
	VIP6 = netip.MustParsePrefix("fd77::100/64")

	lan4   = netip.MustParsePrefix("10.77.0.0/24")
	lan6   = netip.MustParsePrefix("fd77::/64")
	cable4 = netip.MustParsePrefix("10.78.0.0/24")
	cable6 = netip.MustParsePrefix("fd78::/64")
)

const (
	secondNICBase = 40  // host part of eth1 of member 1, less 1
	clientBase    = 199 // host part of client c1, less 1
	maxMembers    = 32
	maxClients    = 32

	lanBridge   = "br0"
	cableBridge = "br1"
)

// Role says what a node of the lab is for.
type Role string

// The roles of nodes.
const (
	Gateway Role = "gateway"
	Witness Role = "witness"
	Client  Role = "client"
)

// Node is one host of a lab.
type Node struct {
	Name  string // gw1, w1, c1
	Role  Role
	Index int   // among members (gateways first) or among clients, from 1
	NICs  []NIC // eth0 first
}

// NIC is one interface of a node and the bridge port at its other end.
type NIC struct {
	Name  string // inside the node: eth0, eth1, peer0
	Port  string // in the lan namespace: gw1, gw1-eth1, gw1-peer0
	Cable bool   // on the second cable and not on the LAN
	MAC   net.HardwareAddr
	IPv4  netip.Prefix
	IPv6  netip.Prefix
}

// NIC returns the interface of that name.
func (n *Node) NIC(name string) (NIC, bool) {
	i := slices.IndexFunc(n.NICs, func(c NIC) bool { return c.Name == name })
	if i < 0 {
		return NIC{}, false
	}
	return n.NICs[i], true
}

// plan lays out the nodes that the options ask for.
func plan(o Options) ([]*Node, error) {
	if o.Gateways < 0 || o.Witnesses < 0 || o.Gateways+o.Witnesses > maxMembers || o.Clients < 0 || o.Clients > maxClients {
		return nil, fmt.Errorf("plan lab: %d gateways, %d witnesses, %d clients: at most %d members and %d clients",
			o.Gateways, o.Witnesses, o.Clients, maxMembers, maxClients)
	}
	var nodes []*Node
	for i := 1; i <= o.Gateways+o.Witnesses; i++ {
		n := &Node{Name: fmt.Sprintf("gw%d", i), Role: Gateway, Index: i}
		if i > o.Gateways {
			n.Name, n.Role = fmt.Sprintf("w%d", i-o.Gateways), Witness
		}
		n.addNIC("eth0", i, 0, lan4, lan6, i)
		if slices.Contains(o.SecondNIC, n.Name) {
			n.addNIC("eth1", i, 1, lan4, lan6, secondNICBase+i)
		}
		if o.Cable && n.Role == Gateway {
			n.addNIC("peer0", i, 2, cable4, cable6, i)
		}
		nodes = append(nodes, n)
	}
	for i := 1; i <= o.Clients; i++ {
		n := &Node{Name: fmt.Sprintf("c%d", i), Role: Client, Index: i}
		n.addNIC("eth0", clientBase+i, 0, lan4, lan6, clientBase+i)
		nodes = append(nodes, n)
	}
	for _, name := range o.SecondNIC {
		if !slices.ContainsFunc(nodes, func(n *Node) bool { return n.Name == name && n.Role != Client }) {
			return nil, fmt.Errorf("plan lab: second interface for %q, which is no member of it", name)
		}
	}
	return nodes, nil
}

func (n *Node) addNIC(name string, node, nic int, net4, net6 netip.Prefix, host int) {
	port := n.Name
	if name != "eth0" {
		port += "-" + name
	}
	n.NICs = append(n.NICs, NIC{
		Name: name, Port: port, Cable: name == "peer0",
		MAC:  net.HardwareAddr{0x02, 0x48, 0x46, 0x00, byte(node), byte(nic)}, // locally administered, "HF"
		IPv4: hostIn(net4, host), IPv6: hostIn(net6, host),
	})
}

// hostIn returns the n-th address of a network, with its length.
func hostIn(network netip.Prefix, n int) netip.Prefix {
	raw := network.Addr().AsSlice()
	raw[len(raw)-1] = byte(n)
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, network.Bits())
}

// buildLan sets up the bridges in the lan namespace.
func (l *Lab) buildLan() error {
	bridges := []string{lanBridge}
	if l.options.Cable {
		bridges = append(bridges, cableBridge)
	}
	lan := l.spaces[Lan]
	h := l.handles[Lan]
	off := false
	for _, name := range bridges {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge %s: %w", name, err)
		}
		if err := inside(lan.file, func() error { return bridgeWithoutDelay(br.Index) }); err != nil {
			return fmt.Errorf("set up bridge %s: %w", name, err)
		}
		if err := h.LinkSetUp(br); err != nil {
			return fmt.Errorf("bring up bridge %s: %w", name, err)
		}
	}
	return nil
}

// bridgeWithoutDelay turns the spanning tree and its forward delay off in the
// calling thread's namespace: a port forwards from the moment it has a carrier.
func bridgeWithoutDelay(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// buildNode plugs a node into its bridges and gives it its addresses.
func (l *Lab) buildNode(n *Node) error {
	ns, h, lan := l.spaces[n.Name], l.handles[n.Name], l.handles[Lan]
	for _, c := range n.NICs {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = c.Port
		veth := &netlink.Veth{
			LinkAttrs: attrs, PeerName: c.Name, PeerHardwareAddr: c.MAC,
			PeerNamespace: netlink.NsFd(int(ns.file.Fd())),
		}
		if err := lan.LinkAdd(veth); err != nil {
			return fmt.Errorf("add cable of %s/%s: %w", n.Name, c.Name, err)
		}
		bridge := lanBridge
		if c.Cable {
			bridge = cableBridge
		}
		if err := plug(lan, c.Port, bridge); err != nil {
			return fmt.Errorf("plug %s/%s in: %w", n.Name, c.Name, err)
		}
		if err := bringUp(h, c); err != nil {
			return fmt.Errorf("bring up %s/%s: %w", n.Name, c.Name, err)
		}
	}
	return nil
}

func plug(lan *netlink.Handle, port, bridge string) error {
	p, err := lan.LinkByName(port)
	if err != nil {
		return err
	}
	br, err := lan.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := lan.LinkSetMaster(p, br); err != nil {
		return err
	}
	return lan.LinkSetUp(p)
}

func bringUp(h *netlink.Handle, c NIC) error {
	link, err := h.LinkByName(c.Name)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{c.IPv4, c.IPv6} {
		if err := h.AddrReplace(link, address(p)); err != nil {
			return fmt.Errorf("add address %v: %w", p, err)
		}
	}
	return nil
}

// address makes netlink's form of a prefix. An IPv6 address skips duplicate
// detection: a second of silence would hide what the lab wants to measure.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// setUpNamespace sets the sysctls of the calling thread's namespace and
// brings its loopback up.
func setUpNamespace(h *netlink.Handle) error {
	for _, s := range []struct{ key, value string }{
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/dad_transmits", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
	} {
		if err := writeSysctl(s.key, s.value); err != nil {
			return err
		}
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}

// setUpLan keeps the lan namespace's own stack off the bridge: it must send
// nothing and answer nothing.
func setUpLan() error {
	return writeSysctl("net/ipv6/conf/default/disable_ipv6", "1")
}

// ports resolves a place to bridge ports: "gw1" is every port of the node on
// the LAN, "gw1/eth1" or "gw1/peer0" one port, "gw1/*" every port.
func (l *Lab) ports(where string) ([]string, error) {
	name, nic, one := strings.Cut(where, "/")
	n, err := l.Node(name)
	if err != nil {
		return nil, err
	}
	var ports []string
	for _, c := range n.NICs {
		switch {
		case !one && !c.Cable, nic == "*", nic == c.Name:
			ports = append(ports, c.Port)
		}
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("find ports: %q has no such interface", where)
	}
	return ports, nil
}

func (l *Lab) allPorts() []string {
	var ports []string
	for _, n := range l.nodes {
		for _, c := range n.NICs {
			ports = append(ports, c.Port)
		}
	}
	return ports
}

// handleAt opens a netlink handle in a namespace.
func handleAt(ns *namespace) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.file.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", ns.name, err)
	}
	return h, nil
}
