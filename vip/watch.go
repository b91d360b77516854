package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// eventsMax is the length of the channel. When it is full the kernel
	// queues; when that is full too, the watcher reads everything anew.
	eventsMax = 256

	// watchBufferBytes is the kernel's queue for one watcher.
	watchBufferBytes = 1 << 20

	resubscribeWaitMin = 10 * time.Millisecond
	resubscribeWaitMax = time.Second
)

// Event is one of AddressAdded, AddressGone, LinkAppeared, LinkDisappeared,
// LinkUp, LinkDown, LinkChanged, Resync and WatchLost.
type Event interface{ event() }

type (
	// AddressAdded: an address is there, or its usability changed.
	AddressAdded struct {
		Prefix    netip.Prefix // as installed; see Add
		Index     int
		Interface string
		Usable    bool
	}
	// AddressGone: an address was removed, by whomever.
	AddressGone struct {
		Prefix    netip.Prefix // as it was installed; see Add
		Index     int
		Interface string
	}
	// LinkAppeared: an interface was made or moved into this namespace. LinkUp
	// follows when it works already.
	LinkAppeared struct{ Interface }
	// LinkDisappeared: an interface was removed; this is its last state.
	LinkDisappeared struct{ Interface }
	// LinkUp: an interface is set up and has a carrier, and had not before.
	LinkUp struct{ Interface }
	// LinkDown: an interface was set down or lost its carrier.
	LinkDown struct{ Interface }
	// LinkChanged: name, MAC or MTU of an interface changed.
	LinkChanged struct{ Interface }
	// Resync: messages of the kernel were lost, everything was read anew, and
	// the differences follow as events. What came and went in between is not
	// among them.
	Resync struct{ Cause error }
	// WatchLost: the subscription broke and cannot be renewed yet. Attempts go
	// on; Resync tells of success.
	WatchLost struct{ Err error }
)

func (AddressAdded) event()    {}
func (AddressGone) event()     {}
func (LinkAppeared) event()    {}
func (LinkDisappeared) event() {}
func (LinkUp) event()          {}
func (LinkDown) event()        {}
func (LinkChanged) event()     {}
func (Resync) event()          {}
func (WatchLost) event()       {}

// Watch reports changes of addresses and links from now on; what is there
// already is no event. Every change made after Watch returns is seen, or
// covered by a Resync. The channel is closed when ctx ends or the Manager is
// closed. Its consumer must keep receiving, but may be slow.
func (m *Manager) Watch(ctx context.Context) (<-chan Event, error) {
	return m.watch(ctx, watchBufferBytes, eventsMax)
}

func (m *Manager) watch(ctx context.Context, bufferBytes, queued int) (<-chan Event, error) {
	w := &watcher{
		m:           m,
		bufferBytes: bufferBytes,
		events:      make(chan Event, queued),
		table:       newTable(),
	}
	if _, err := w.subscribe(); err != nil {
		return nil, fmt.Errorf("watch addresses and links: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(m.watchCtx, cancel)
	m.watchers.Go(func() {
		defer cancel()
		defer stop()
		defer close(w.events)
		w.run(ctx)
	})
	return w.events, nil
}

// watcher is owned by the goroutine of its Watch.
type watcher struct {
	m           *Manager
	bufferBytes int
	events      chan Event
	socket      *nl.NetlinkSocket
	table       *table
}

// subscribe opens a subscription, then reads everything, and returns the
// differences to what was known. In this order nothing is lost; messages that
// were queued meanwhile may repeat what was read.
func (w *watcher) subscribe() ([]Event, error) {
	var s *nl.NetlinkSocket
	err := w.m.ns.do(func() (err error) {
		s, err = nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink: %w", explain(err))
	}
	if err := s.SetReceiveBufferSize(w.bufferBytes, true); err != nil {
		// Without the privilege the system's limit holds: overruns come
		// sooner, and are dealt with.
		_ = s.SetReceiveBufferSize(w.bufferBytes, false)
	}
	links, addresses, err := w.m.snapshot()
	if err != nil {
		s.Close()
		return nil, err
	}
	w.socket = s
	return w.table.replace(links, addresses), nil
}

func (m *Manager) snapshot() ([]Interface, map[addressKey]bool, error) {
	links, err := m.links()
	if err != nil {
		return nil, nil, err
	}
	all, err := m.addresses(netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, err
	}
	addresses := make(map[addressKey]bool, len(all))
	for _, h := range all {
		addresses[addressKey{h.LinkIndex, h.prefix}] = h.usable()
	}
	return links, addresses, nil
}

// run reads until ctx ends, with a new subscription whenever one breaks.
func (w *watcher) run(ctx context.Context) {
	for {
		err := w.read(ctx)
		w.socket.Close()
		if ctx.Err() != nil || !w.renew(ctx, err) {
			return
		}
	}
}

// read delivers messages until the subscription breaks or ctx ends.
func (w *watcher) read(ctx context.Context) error {
	socket := w.socket
	stop := context.AfterFunc(ctx, socket.Close) // wakes Receive
	defer stop()
	for {
		messages, from, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("receive from netlink: %w", err)
		case from.Pid != nl.PidKernel:
			continue
		}
		for _, msg := range messages {
			if !w.deliver(ctx, w.take(msg)) {
				return ctx.Err()
			}
		}
	}
}

// renew subscribes again until that works; false when ctx ended before.
func (w *watcher) renew(ctx context.Context, cause error) bool {
	wait := resubscribeWaitMin
	for first := true; ; first = false {
		changes, err := w.subscribe()
		if err == nil {
			if w.deliver(ctx, append([]Event{Resync{Cause: cause}}, changes...)) {
				return true
			}
			w.socket.Close()
			return false
		}
		if first && !w.deliver(ctx, []Event{WatchLost{Err: errors.Join(cause, err)}}) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, resubscribeWaitMax)
	}
}

func (w *watcher) deliver(ctx context.Context, events []Event) bool {
	for _, e := range events {
		select {
		case w.events <- e:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// take turns one message of the kernel into events.
func (w *watcher) take(msg syscall.NetlinkMessage) []Event {
	switch msg.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Bridges send the same types in their own family when a port joins
		// or leaves: the interface itself stays.
		if len(msg.Data) < unix.SizeofIfInfomsg || msg.Data[0] != unix.AF_UNSPEC {
			return nil
		}
		header := unix.NlMsghdr(msg.Header)
		link, err := netlink.LinkDeserialize(&header, msg.Data)
		if err != nil {
			return nil // no message of a kernel that we know
		}
		if msg.Header.Type == unix.RTM_DELLINK {
			return w.table.unlink(link.Attrs().Index)
		}
		return w.table.link(interfaceOf(link.Attrs()))
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		k, flags, ok := parseAddress(msg.Data)
		if !ok {
			return nil
		}
		if msg.Header.Type == unix.RTM_DELADDR {
			return w.table.unaddress(k)
		}
		return w.table.address(k, usableFlags(flags))
	}
	return nil
}

// parseAddress reads struct ifaddrmsg and its attributes. The prefix is the
// same that listing gives: with a peer, the local address has host length.
func parseAddress(b []byte) (k addressKey, flags int, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return k, 0, false
	}
	msg := nl.DeserializeIfAddrmsg(b)
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return k, 0, false
	}
	flags = int(msg.IfAddrmsg.Flags)
	var local, address netip.Addr
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_FLAGS:
			if len(a.Value) >= 4 {
				flags = int(nl.NativeEndian().Uint32(a.Value))
			}
		}
	}
	bits := int(msg.Prefixlen)
	switch {
	case !local.IsValid():
		local = address
	case local != address || local.Is6():
		bits = local.BitLen()
	}
	p := netip.PrefixFrom(local, bits)
	return addressKey{int(msg.Index), p}, flags, p.IsValid()
}
