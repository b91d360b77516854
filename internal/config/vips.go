package config

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// vip is a VIP beside its place in the file.
type vip struct {
	VIP
	t *table
}

func readVIPs(top *table) []vip {
	var vips []vip
	for _, t := range top.list("vip", VIPsMax) {
		v := vip{t: t}
		v.Address = readPrefix(t)
		v.Interface = readInterface(t)
		v.Group = DefaultGroup
		if _, ok := t.get("group"); ok {
			v.Group = t.readName("group", fmt.Sprintf("write a name such as %q, or leave the key out", DefaultGroup))
		}
		scope, _ := t.choice("scope", string(ScopeVIP), string(ScopeVIP), string(ScopeForwarding))
		v.Scope = Scope(scope)
		t.finish()
		vips = append(vips, v)
	}
	return vips
}

func readPrefix(t *table) netip.Prefix {
	const fix = `write the address with the prefix length of its network, such as "10.77.0.100/24"`
	s, ok := t.required("address", fix)
	if !ok {
		return netip.Prefix{}
	}
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		t.bad("address", fix, "%q has no prefix length", s)
		return netip.Prefix{}
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		t.bad("address", fix, "%q is not an address with a prefix length", clip(s))
		return netip.Prefix{}
	}
	if why := vipProblem(prefix); why != "" {
		t.bad("address", fix, "%q %s", s, why)
		return netip.Prefix{}
	}
	return prefix
}

// vipProblem says why an address cannot float between hosts, or "".
func vipProblem(p netip.Prefix) string {
	ip := p.Addr()
	switch {
	case p.Bits() == 0:
		return "has prefix length 0"
	case ip.Is4In6():
		return "is an IPv4 address in IPv6 form"
	case ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback():
		return "is not an address that a host can offer to others"
	case p.Bits() < ip.BitLen()-1 && p.Masked().Addr() == ip:
		return "is the address of the network itself"
	case ip.Is4() && p.Bits() < 31 && broadcast(p) == ip:
		return "is the broadcast address of its network"
	}
	return ""
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|host)
	return netip.AddrFrom4(b)
}

func readInterface(t *table) string {
	const fix = `write the name of the interface that carries the VIP, such as "eth0"`
	s, ok := t.required("interface", fix)
	if !ok {
		return ""
	}
	odd := strings.ContainsFunc(s, func(r rune) bool {
		return r == '/' || r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
	switch {
	case len(s) > InterfaceBytesMax:
		t.bad("interface", fix, "%q is longer than the kernel's %d characters", clip(s), InterfaceBytesMax)
	case odd || s == "." || s == "..":
		t.bad("interface", fix, "%q cannot be the name of an interface", clip(s))
	case s == "lo":
		t.bad("interface", fix, "lo is not gated, so the VIP would answer without a lease")
	}
	return s
}

// checkVIPs looks at the VIPs together: each address once, none of a member,
// groups within their limit, one group an interface for forwarding.
func checkVIPs(top *table, vips []vip, members []member) {
	if len(vips) == 0 {
		top.bad("vip", "write a [[vip]] with address and interface", "missing")
	}
	peers := map[netip.Addr]string{}
	for _, m := range members {
		for _, a := range m.Addresses {
			peers[a.Addr().WithZone("")] = m.Name
		}
	}
	addresses := map[netip.Addr]int{}
	groups := map[string]bool{}
	forwarding := map[string]string{}
	for _, v := range vips {
		if ip := v.Address.Addr(); ip.IsValid() {
			if name, taken := peers[ip]; taken {
				v.t.bad("address", "write an address that no host has: it moves from one to another",
					"%s is an address of member %q", ip, name)
			}
			if first := addresses[ip]; first != 0 {
				v.t.bad("address", "keep one of them", "%s is used twice, first in line %d", ip, first)
			}
			addresses[ip] = v.t.line("address")
		}
		if v.Group == "" {
			continue
		}
		if !groups[v.Group] && len(groups) == GroupsMax {
			v.t.bad("group", "put VIPs that may move together into one group", "more than %d groups", GroupsMax)
		}
		groups[v.Group] = true
		if v.Scope == ScopeForwarding {
			if other := forwarding[v.Interface]; other != "" && other != v.Group {
				v.t.bad("scope", "put these VIPs into one group, or use scope \"vip\" for one of them",
					"group %q forwards on %s already: one gate decides what an interface forwards", other, v.Interface)
			}
			forwarding[v.Interface] = v.Group
		}
	}
}

// parseListen reads IP:port, where a missing IP means every address.
func parseListen(s string) (netip.AddrPort, error) {
	if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	address, err := netip.ParseAddrPort(s)
	if err == nil && address.Port() == 0 {
		err = fmt.Errorf("port 0")
	}
	return address, err
}

// checkListen keeps the status port off the port that peers use (both TCP).
func checkListen(top *table, c *Config, members []member) {
	if c.Status.Listen == "" {
		return
	}
	listen, err := parseListen(c.Status.Listen)
	if err != nil {
		return
	}
	for _, m := range members {
		if m.Name != c.Node.Name {
			continue
		}
		for _, a := range m.Addresses {
			if a.Port() == listen.Port() && (listen.Addr().IsUnspecified() || listen.Addr() == a.Addr()) {
				top.sub("status").bad("listen", fmt.Sprintf("write another port, such as %q", DefaultListen),
					"%s is the address that this member talks to its peers on", a)
			}
		}
	}
}
