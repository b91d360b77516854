package transport

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	maxName      = 64 // bytes of a member's name
	maxAddresses = 8
	maxMembers   = 64
)

var errOwnKey = errors.New("node key is not the one of the member list")

// complete checks a configuration and fills in defaults.
func (c *Config) complete() error {
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = time.Second
	}
	if c.PingInterval == 0 {
		c.PingInterval = 100 * time.Millisecond
	}
	if c.IdleLimit == 0 {
		c.IdleLimit = max(time.Second, 3*c.PingInterval)
	}
	switch {
	case len(c.Key) != ed25519.PrivateKeySize:
		return fmt.Errorf("transport: node key has %d bytes instead of %d", len(c.Key), ed25519.PrivateKeySize)
	case c.Hello == nil || c.Handler == nil || c.Logger == nil:
		return errors.New("transport: Hello, Handler and Logger are required")
	case c.NoteSize < len(noteMagic) || c.NoteSize > maxDatagram:
		return fmt.Errorf("transport: note size %d is not within %d..%d", c.NoteSize, len(noteMagic), maxDatagram)
	case c.HandshakeTimeout < 0 || c.PingInterval < 0 || c.IdleLimit < 3*c.PingInterval:
		return fmt.Errorf("transport: handshake timeout %v and ping interval %v must be positive and idle limit %v at least three pings",
			c.HandshakeTimeout, c.PingInterval, c.IdleLimit)
	}
	return nil
}

// checkMembers refuses lists that would make two members one or a path
// unusable, and returns the own entry.
func checkMembers(members []Member, self string) (Member, error) {
	if len(members) > maxMembers {
		return Member{}, fmt.Errorf("transport: %d members, limit %d", len(members), maxMembers)
	}
	var own Member
	names, keys, addrs := map[string]bool{}, map[string]string{}, map[netip.AddrPort]string{}
	for _, m := range members {
		if err := checkMember(m); err != nil {
			return Member{}, fmt.Errorf("transport: member %q: %w", m.Name, err)
		}
		if names[m.Name] {
			return Member{}, fmt.Errorf("transport: member %q is listed twice", m.Name)
		}
		names[m.Name] = true
		if other, taken := keys[string(m.PublicKey)]; taken {
			return Member{}, fmt.Errorf("transport: members %q and %q have the same key", other, m.Name)
		}
		keys[string(m.PublicKey)] = m.Name
		for _, a := range m.Addresses {
			if other, taken := addrs[a]; taken {
				return Member{}, fmt.Errorf("transport: members %q and %q have the same address %s", other, m.Name, a)
			}
			addrs[a] = m.Name
		}
		if m.Name == self {
			own = m
		}
	}
	if own.Name == "" {
		return Member{}, fmt.Errorf("transport: own name %q is not in the member list", self)
	}
	return own, nil
}

func checkMember(m Member) error {
	switch {
	case m.Name == "" || len(m.Name) > maxName || strings.ContainsRune(m.Name, 0):
		return fmt.Errorf("name must have 1 to %d bytes", maxName)
	case len(m.PublicKey) != ed25519.PublicKeySize || smallOrder(m.PublicKey):
		return errors.New("public key is not an Ed25519 key")
	case len(m.Addresses) == 0 || len(m.Addresses) > maxAddresses:
		return fmt.Errorf("%d addresses, must be 1 to %d", len(m.Addresses), maxAddresses)
	}
	for _, a := range m.Addresses {
		ip := a.Addr()
		if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Is4In6() || ip.Zone() != "" || a.Port() == 0 {
			return fmt.Errorf("address %s must be one host's, with a port and without zone", a)
		}
	}
	return nil
}

// roster is one version of the member list, never changed once stored.
type roster struct {
	list   []*peer // sorted by name, without oneself
	byName map[string]*peer
	byKey  map[string]*peer
}

// nextRoster makes the roster for a checked member list; peers whose name and
// key stay are kept, new ones are not started.
func (t *Transport) nextRoster(old *roster, members []Member) *roster {
	r := &roster{byName: map[string]*peer{}, byKey: map[string]*peer{}}
	sources := map[netip.Addr]bool{}
	for _, m := range members {
		for _, a := range m.Addresses {
			sources[a.Addr()] = true
		}
		if m.Name == t.cfg.Self {
			continue
		}
		p := old.byName[m.Name]
		if p != nil && p.key.Equal(m.PublicKey) {
			p.setAddresses(m.Addresses)
		} else {
			p = newPeer(t, m)
		}
		r.list = append(r.list, p)
		r.byName[p.name] = p
		r.byKey[string(p.key)] = p
	}
	slices.SortFunc(r.list, func(a, b *peer) int { return strings.Compare(a.name, b.name) })
	t.pending.setMembers(sources)
	t.accepts.setMembers(sources)
	t.notes.setMembers(sources)
	return r
}

// SetMembers replaces the member list while running. Connections and beat
// sessions of members whose key stays are kept, also when their addresses
// change. The own entry must not change (ErrOwnEntry).
func (t *Transport) SetMembers(members []Member) error {
	self, err := checkMembers(members, t.cfg.Self)
	if err != nil {
		return err
	}
	if !self.PublicKey.Equal(t.cfg.Key.Public()) || !slices.Equal(self.Addresses, t.own) {
		return ErrOwnEntry
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return ErrClosed
	}
	old := t.roster.Load()
	next := t.nextRoster(old, members)
	for _, p := range old.list { // first, so that events of one name stay in order
		if next.byName[p.name] != p {
			p.stop(ErrRemoved)
		}
	}
	t.roster.Store(next)
	for _, p := range next.list {
		if t.started && old.byName[p.name] != p {
			p.start()
		}
	}
	return nil
}
