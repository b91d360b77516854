package config

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
)

// member is a Member beside its place in the file.
type member struct {
	Member
	t *table
}

func readMembers(top *table) []member {
	var members []member
	for _, t := range top.list("member", MembersMax) {
		m := member{t: t}
		m.Name = t.readName("name", `write the name of the member, such as "gw1"`)
		m.Addresses = readAddresses(t)
		m.PublicKey = readPublicKey(t)
		role, _ := t.choice("role", string(Gateway), string(Gateway), string(Witness))
		m.Role = Role(role)
		m.Priority = int(t.integer("priority", DefaultPriority, 1, 1000))
		t.finish()
		members = append(members, m)
	}
	return members
}

func readAddresses(t *table) []netip.AddrPort {
	const fix = `write IP:port for each path to the member, such as ["10.77.0.1:7400"]`
	texts, ok := t.strings("addresses", fix, AddressesMax)
	if !ok {
		return nil
	}
	var addresses []netip.AddrPort
	for i, s := range texts {
		address, err := netip.ParseAddrPort(s)
		ip := address.Addr()
		why := ""
		switch {
		case err != nil:
			why = "is not IP:port"
		case address.Port() == 0:
			why = "has port 0"
		case ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			why = "is not the address of one host"
		case ip.Is4In6():
			why = "is an IPv4 address in IPv6 form"
		}
		if why != "" {
			t.r.add(t.itemLine("addresses", i), t.key("addresses"), fmt.Sprintf("%q %s", clip(s), why), fix)
			continue
		}
		addresses = append(addresses, address)
	}
	return addresses
}

func readPublicKey(t *table) (key [32]byte) {
	const fix = "write the line that `holdfast keygen` printed on that member (44 characters of base64)"
	s, ok := t.required("public_key", fix)
	if !ok {
		return key
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	switch {
	case err != nil || strings.ContainsAny(s, "\r\n"):
		t.bad("public_key", fix, "%q is not base64", clip(s))
	case len(raw) != len(key):
		t.bad("public_key", fix, "%d bytes, an Ed25519 key has %d", len(raw), len(key))
	case [32]byte(raw) == key:
		t.bad("public_key", fix, "all zero")
	default:
		key = [32]byte(raw)
	}
	return key
}

// checkMembers looks at the members together: their number, this node among
// them, and that names, keys and addresses are each used once.
func checkMembers(top *table, node Node, members []member) {
	names := map[string]int{}
	keys := map[[32]byte]string{}
	addresses := map[netip.AddrPort]string{}
	gateways := 0
	for _, m := range members {
		if first := names[m.Name]; m.Name != "" && first != 0 {
			m.t.bad("name", "give every member its own name", "%q is used twice, first in line %d", m.Name, first)
		}
		names[m.Name] = m.t.line("name")
		if m.PublicKey != ([32]byte{}) {
			if other, taken := keys[m.PublicKey]; taken {
				m.t.bad("public_key", "run `holdfast keygen` on each member: a key belongs to one node",
					"the key of member %q", other)
			}
			keys[m.PublicKey] = m.Name
		}
		for i, a := range m.Addresses {
			if other, taken := addresses[a]; taken {
				m.t.r.add(m.t.itemLine("addresses", i), m.t.key("addresses"),
					fmt.Sprintf("%s is used twice, first by member %q", a, other), "give every path its own address")
			}
			addresses[a] = m.Name
		}
		if m.Role == Gateway {
			gateways++
		}
	}
	checkVoters(top, len(members), gateways)
	if node.Name != "" && names[node.Name] == 0 {
		t := top.sub("node")
		fix := "add a [[member]] with that name, or write the name of one that is there"
		known := make([]string, 0, len(members))
		for _, m := range members {
			known = append(known, m.Name)
		}
		if near := nearest(node.Name, known); near != "" {
			fix = fmt.Sprintf("write %q", near)
		}
		t.bad("name", fix, "%q is not one of the members", node.Name)
	}
}

// checkVoters wants an odd number, at least 3: with two, losing either loses
// the majority and with it the VIP.
func checkVoters(top *table, voters, gateways int) {
	const witness = `add a [[member]] with role = "witness"`
	line := top.line("member")
	if n := top.place.child("member"); n != nil && len(n.items) > 0 {
		line = n.items[len(n.items)-1].line
	}
	switch {
	case voters == 0:
		top.bad("member", "write a [[member]] for each node: two gateways and a witness, or three gateways", "missing")
		return
	case voters == 1:
		top.r.add(line, "member", "one voter cannot fail over", "write a [[member]] for each node: at least 3")
	case voters == 2:
		top.r.add(line, "member", "two voters: when either fails, the other has no majority and must drop the VIP", witness)
	case voters%2 == 0:
		top.r.add(line, "member", fmt.Sprintf("an even number of voters (%d) stands no more failures than %d", voters, voters-1),
			witness+" or remove one")
	}
	if gateways == 0 {
		top.bad("member", `write role = "gateway" for the members that may hold the VIP`, "no member is a gateway")
	}
}
