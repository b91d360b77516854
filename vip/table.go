package vip

import (
	"maps"
	"net/netip"
	"slices"
)

// addressKey names an address on an interface.
type addressKey struct {
	index  int
	prefix netip.Prefix
}

// table is what the kernel told a watcher so far. It turns the kernel's
// messages, many of which change nothing that matters here, into events. Pure.
type table struct {
	links     map[int]Interface
	addresses map[addressKey]bool // usable
}

func newTable() *table {
	return &table{links: make(map[int]Interface), addresses: make(map[addressKey]bool)}
}

// link takes in the state of an interface.
func (t *table) link(i Interface) []Event {
	old, known := t.links[i.Index]
	t.links[i.Index] = i
	running, ran := i.Up && i.Carrier, known && old.Up && old.Carrier
	var events []Event
	switch {
	case !known:
		events = append(events, LinkAppeared{i})
	case i.Name != old.Name || i.MAC != old.MAC || i.MTU != old.MTU:
		events = append(events, LinkChanged{i})
	}
	if running && !ran {
		events = append(events, LinkUp{i})
	}
	if !running && ran {
		events = append(events, LinkDown{i})
	}
	return events
}

// unlink takes in that an interface is gone, and its addresses with it.
func (t *table) unlink(index int) []Event {
	old, known := t.links[index]
	if !known {
		return nil
	}
	var events []Event
	for k := range t.addresses {
		if k.index == index {
			events = append(events, t.unaddress(k)...)
		}
	}
	delete(t.links, index)
	return append(events, LinkDisappeared{old})
}

// address takes in an address; a repeated message is no event unless the
// address has become usable, or useless.
func (t *table) address(k addressKey, usable bool) []Event {
	old, known := t.addresses[k]
	t.addresses[k] = usable
	if known && old == usable {
		return nil
	}
	return []Event{AddressAdded{
		Prefix: k.prefix, Index: k.index, Interface: t.links[k.index].Name, Usable: usable,
	}}
}

// unaddress takes in that an address is gone.
func (t *table) unaddress(k addressKey) []Event {
	if _, known := t.addresses[k]; !known {
		return nil
	}
	delete(t.addresses, k)
	return []Event{AddressGone{Prefix: k.prefix, Index: k.index, Interface: t.links[k.index].Name}}
}

// replace takes in a full reading and returns what had changed unseen.
func (t *table) replace(links []Interface, addresses map[addressKey]bool) []Event {
	var events []Event
	present := make(map[int]bool, len(links))
	for _, i := range links {
		present[i.Index] = true
	}
	for _, index := range slices.Sorted(maps.Keys(t.links)) {
		if !present[index] {
			events = append(events, t.unlink(index)...)
		}
	}
	for k := range t.addresses {
		if _, there := addresses[k]; !there {
			events = append(events, t.unaddress(k)...)
		}
	}
	for _, i := range links {
		events = append(events, t.link(i)...)
	}
	for k, usable := range addresses {
		events = append(events, t.address(k, usable)...)
	}
	return events
}
