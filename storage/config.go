package storage

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Limits of the committed configuration. They bound what a decoder allocates.
const (
	MaxName    = 63  // bytes of a member, group or cluster name
	MaxMembers = 63  // members of one cluster
	MaxGroups  = 256 // groups of one cluster
	MaxVIPs    = 256 // addresses of one group
)

// firstMagic opens the encoded first configuration; its digit is the version.
const firstMagic = "HFC2"

// The snapshot every log begins with: the first configuration.
const (
	FirstIndex uint64 = 1
	FirstTerm  uint64 = 1
)

// Role says what a member is for.
type Role uint8

// A Gateway may hold groups. A Witness votes and stores the log but never
// holds.
const (
	Gateway Role = 1
	Witness Role = 2
)

// String returns the name used in configuration files and status.
func (r Role) String() string {
	switch r {
	case Gateway:
		return "gateway"
	case Witness:
		return "witness"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Scope says what a closed gate drops for an address.
type Scope uint8

// ScopeVIP drops the address itself; ScopeForwarding also drops what the host
// would forward from the address's interface.
const (
	ScopeVIP        Scope = 1
	ScopeForwarding Scope = 2
)

// String returns the name used in configuration files and status.
func (s Scope) String() string {
	switch s {
	case ScopeVIP:
		return "vip"
	case ScopeForwarding:
		return "forwarding"
	}
	return fmt.Sprintf("scope(%d)", uint8(s))
}

// Member is one node as the cluster knows it. Name and PublicKey outlive
// RaftID, which belongs to one data directory.
type Member struct {
	Name      string
	PublicKey [32]byte // Ed25519
	RaftID    uint64
	Role      Role
	Priority  int32 // higher first
}

// VIP is one floating address with the length of its prefix.
type VIP struct {
	Prefix netip.Prefix // address and bits, not masked
	Scope  Scope
}

// Group is a set of addresses that move together. ID is its number in the
// protocol; it is never used twice in one cluster.
type Group struct {
	ID   uint16
	Name string
	VIPs []VIP
}

// Profile is the timing all members share.
type Profile struct {
	Beat, Promise, Epsilon time.Duration
}

// FirstConfig is what a cluster is founded with (F1): identical on every
// member, and the content of every log at index 1. Groups get their IDs from
// their order by name.
type FirstConfig struct {
	Cluster string // name, from the configuration file
	Members []Member
	Groups  []Group
	Profile Profile
	// Parent is the id of the cluster that this one is a recovery of (F4), zero
	// for none: who waits to join the parent joins this one instead.
	Parent [16]byte
}

// Canonical returns a copy in the one order all members agree on: members and
// groups by name, addresses by value, group IDs counted from 0.
func (c FirstConfig) Canonical() FirstConfig {
	c.Members = slices.Clone(c.Members)
	slices.SortFunc(c.Members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	c.Groups = cloneGroups(c.Groups)
	slices.SortFunc(c.Groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	for i := range c.Groups {
		c.Groups[i].ID = uint16(i)
		sortVIPs(c.Groups[i].VIPs)
	}
	return c
}

func sortVIPs(v []VIP) {
	slices.SortFunc(v, func(a, b VIP) int {
		if n := a.Prefix.Addr().Compare(b.Prefix.Addr()); n != 0 {
			return n
		}
		return cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits())
	})
}

func cloneGroups(groups []Group) []Group {
	out := slices.Clone(groups)
	for i := range out {
		out[i].VIPs = slices.Clone(out[i].VIPs)
	}
	return out
}

// Encode returns the canonical bytes; equal configurations have equal bytes
// whatever order their files list things in. The configuration must be valid.
func (c FirstConfig) Encode() []byte {
	c = c.Canonical()
	e := &encoder{b: []byte(firstMagic)}
	e.str(c.Cluster)
	encodeProfile(e, c.Profile)
	e.raw(c.Parent[:])
	e.count(len(c.Members))
	for _, m := range c.Members {
		encodeMember(e, m)
	}
	e.count(len(c.Groups))
	for _, g := range c.Groups {
		encodeGroup(e, g)
	}
	return e.b
}

// ID returns the cluster id: the first 16 bytes of the SHA-256 of Encode. The
// raft ids make it new at every founding (F1a).
func (c FirstConfig) ID() [16]byte {
	sum := sha256.Sum256(c.Encode())
	return [16]byte(sum[:16])
}

// Digest covers what an operator writes (names, keys, roles, priorities,
// groups, profile) and not the raft ids, so that nodes can compare their files
// before a cluster exists.
func (c FirstConfig) Digest() [32]byte {
	c.Members = slices.Clone(c.Members)
	for i := range c.Members {
		c.Members[i].RaftID = 0
	}
	return sha256.Sum256(c.Encode())
}

// ConfState returns the raft configuration of the founding: every member a
// voter.
func (c FirstConfig) ConfState() *raftpb.ConfState {
	cs := &raftpb.ConfState{}
	for _, m := range c.Canonical().Members {
		cs.Voters = append(cs.Voters, m.RaftID)
	}
	slices.Sort(cs.Voters)
	return cs
}

// Snapshot returns the first configuration as the raft snapshot every log
// starts from.
func (c FirstConfig) Snapshot() *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data: c.Encode(),
		Metadata: &raftpb.SnapshotMetadata{
			Index: new(FirstIndex), Term: new(FirstTerm), ConfState: c.ConfState(),
		},
	}
}

// DecodeFirst parses and validates what Encode wrote. It refuses bytes that
// are not canonical, because their hash would name another cluster.
func DecodeFirst(b []byte) (FirstConfig, error) {
	if !bytes.HasPrefix(b, []byte(firstMagic)) {
		return FirstConfig{}, errors.New("read first configuration: unknown format")
	}
	d := &decoder{b: b[len(firstMagic):]}
	var c FirstConfig
	c.Cluster = d.str(MaxName, "cluster name")
	c.Profile = decodeProfile(d)
	copy(c.Parent[:], d.take(len(c.Parent)))
	for range d.count(MaxMembers, "members") {
		c.Members = append(c.Members, decodeMember(d))
	}
	c.Groups = decodeGroups(d)
	if err := d.end(); err != nil {
		return FirstConfig{}, fmt.Errorf("read first configuration: %w", err)
	}
	if err := c.Validate(); err != nil {
		return FirstConfig{}, fmt.Errorf("read first configuration: %w", err)
	}
	if !bytes.Equal(b, c.Encode()) {
		return FirstConfig{}, errors.New("read first configuration: not in canonical form")
	}
	return c, nil
}

// Validate returns everything that is wrong with the configuration, joined.
func (c FirstConfig) Validate() error {
	var errs []error
	if err := checkName("cluster", c.Cluster); err != nil {
		errs = append(errs, err)
	}
	p := c.Profile
	if p.Beat <= 0 || p.Promise <= p.Beat || p.Epsilon <= 0 {
		errs = append(errs, fmt.Errorf("timing %s/%s/%s: want 0 < beat < promise and 0 < epsilon", p.Beat, p.Promise, p.Epsilon))
	}
	errs = append(errs, validateMembers(c.Members), ValidateGroups(c.Groups))
	return errors.Join(errs...)
}

func validateMembers(members []Member) error {
	var errs []error
	// An even number is for a moment between two members that are added; files,
	// and so foundings, have an odd one.
	if n := len(members); n < 3 || n > MaxMembers {
		errs = append(errs, fmt.Errorf("%d members: want 3 to %d (two gateways need a witness)", n, MaxMembers))
	}
	names, keys, ids := map[string]bool{}, map[[32]byte]string{}, map[uint64]string{}
	gateways := 0
	for _, m := range members {
		if err := m.Validate(); err != nil {
			errs = append(errs, err)
		}
		if names[m.Name] {
			errs = append(errs, fmt.Errorf("member %q listed twice", m.Name))
		}
		if other, ok := keys[m.PublicKey]; ok {
			errs = append(errs, fmt.Errorf("members %q and %q have the same public key", other, m.Name))
		}
		if other, ok := ids[m.RaftID]; ok {
			errs = append(errs, fmt.Errorf("members %q and %q have the same raft id %x: one data directory is a copy of the other", other, m.Name, m.RaftID))
		}
		names[m.Name], keys[m.PublicKey], ids[m.RaftID] = true, m.Name, m.Name
		if m.Role == Gateway {
			gateways++
		}
	}
	if gateways == 0 {
		errs = append(errs, errors.New("no member is a gateway"))
	}
	return errors.Join(errs...)
}

// Validate checks one member by itself.
func (m Member) Validate() error {
	if err := checkName("member", m.Name); err != nil {
		return err
	}
	if m.PublicKey == ([32]byte{}) {
		return fmt.Errorf("member %q: no public key", m.Name)
	}
	if !ValidRaftID(m.RaftID) {
		return fmt.Errorf("member %q: raft id %x is reserved", m.Name, m.RaftID)
	}
	if m.Role != Gateway && m.Role != Witness {
		return fmt.Errorf("member %q: unknown %s", m.Name, m.Role)
	}
	return nil
}

// ValidRaftID reports whether id can name a node: raft keeps 0 for "none" and
// the two highest values for its storage threads.
func ValidRaftID(id uint64) bool { return id != 0 && id < math.MaxUint64-1 }

// ValidateGroups checks names and addresses: no address is in two groups
// (F1a).
func ValidateGroups(groups []Group) error {
	var errs []error
	if len(groups) > MaxGroups {
		errs = append(errs, fmt.Errorf("%d groups, at most %d allowed", len(groups), MaxGroups))
	}
	names, addrs := map[string]bool{}, map[netip.Addr]string{}
	for _, g := range groups {
		if err := checkName("group", g.Name); err != nil {
			errs = append(errs, err)
		}
		if names[g.Name] {
			errs = append(errs, fmt.Errorf("group %q listed twice", g.Name))
		}
		names[g.Name] = true
		if n := len(g.VIPs); n == 0 || n > MaxVIPs {
			errs = append(errs, fmt.Errorf("group %q: %d addresses, want 1 to %d", g.Name, n, MaxVIPs))
		}
		for _, v := range g.VIPs {
			a := v.Prefix.Addr()
			if !v.Prefix.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
				errs = append(errs, fmt.Errorf("group %q: %s cannot be a floating address", g.Name, v.Prefix))
			}
			if v.Scope != ScopeVIP && v.Scope != ScopeForwarding {
				errs = append(errs, fmt.Errorf("group %q: %s: unknown %s", g.Name, v.Prefix, v.Scope))
			}
			if other, ok := addrs[a]; ok {
				errs = append(errs, fmt.Errorf("address %s is in group %q and in group %q", a, other, g.Name))
			}
			addrs[a] = g.Name
		}
	}
	return errors.Join(errs...)
}

// checkName refuses names that could not be shown on one line or compared
// byte by byte on all members.
func checkName(what, name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%s name %q: want 1 to %d bytes", what, name, MaxName)
	}
	for _, r := range name {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%s name %q: only printable ASCII without spaces", what, name)
		}
	}
	return nil
}

func encodeProfile(e *encoder, p Profile) {
	e.u64(uint64(p.Beat))
	e.u64(uint64(p.Promise))
	e.u64(uint64(p.Epsilon))
}

func decodeProfile(d *decoder) Profile {
	return Profile{Beat: time.Duration(d.u64()), Promise: time.Duration(d.u64()), Epsilon: time.Duration(d.u64())}
}

func encodeMember(e *encoder, m Member) {
	e.str(m.Name)
	e.raw(m.PublicKey[:])
	e.u64(m.RaftID)
	e.u8(uint8(m.Role))
	e.u32(uint32(m.Priority))
}

func decodeMember(d *decoder) Member {
	var m Member
	m.Name = d.str(MaxName, "member name")
	copy(m.PublicKey[:], d.take(len(m.PublicKey)))
	m.RaftID = d.u64()
	m.Role = Role(d.u8())
	m.Priority = int32(d.u32())
	return m
}

func encodeGroup(e *encoder, g Group) {
	e.u16(g.ID)
	e.str(g.Name)
	e.count(len(g.VIPs))
	for _, v := range g.VIPs {
		addr := v.Prefix.Addr().AsSlice()
		e.u8(uint8(len(addr)))
		e.raw(addr)
		e.u8(uint8(v.Prefix.Bits()))
		e.u8(uint8(v.Scope))
	}
}

func decodeGroups(d *decoder) []Group {
	var groups []Group
	for range d.count(MaxGroups, "groups") {
		g := Group{ID: d.u16(), Name: d.str(MaxName, "group name")}
		for range d.count(MaxVIPs, "addresses") {
			g.VIPs = append(g.VIPs, decodeVIP(d))
		}
		groups = append(groups, g)
	}
	return groups
}

func decodeVIP(d *decoder) VIP {
	n := int(d.u8())
	if n != 4 && n != 16 {
		d.fail(fmt.Errorf("address of %d bytes", n))
		return VIP{}
	}
	addr, _ := netip.AddrFromSlice(d.take(n))
	bits := int(d.u8())
	v := VIP{Prefix: netip.PrefixFrom(addr, bits), Scope: Scope(d.u8())}
	if d.err == nil && !v.Prefix.IsValid() {
		d.fail(fmt.Errorf("prefix %s/%d", addr, bits))
	}
	return v
}
