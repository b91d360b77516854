package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

const (
	levelInfo, levelWarn = slog.LevelInfo, slog.LevelWarn

	// maxPending bounds connections that have not finished their greeting:
	// of one source, and of all strangers. A member may need two for each of
	// its addresses. Each holds tens of kilobytes.
	maxPendingSource, maxPendingStrangers = 16, 64
	// acceptRate bounds handshakes a second and source; each costs about
	// half a millisecond of CPU.
	acceptRate, acceptBurst = 40, 80
	acceptRetry             = 50 * time.Millisecond
)

// pending counts unfinished connections by source. Members' addresses do not
// share the strangers' cap, so that a flood cannot keep members out.
type pending struct {
	mu        sync.Mutex
	members   map[netip.Addr]bool
	sources   map[netip.Addr]int // no more entries than connections
	strangers int
}

func (s *pending) setMembers(addrs map[netip.Addr]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = addrs
}

// enter takes a place for source; leave must be called if it returns ok.
func (s *pending) enter(source netip.Addr) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stranger := !s.members[source]
	if s.sources[source] >= maxPendingSource || (stranger && s.strangers >= maxPendingStrangers) {
		return nil, false
	}
	s.sources[source]++
	if stranger {
		s.strangers++
	}
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sources[source]--; s.sources[source] == 0 {
			delete(s.sources, source)
		}
		if stranger {
			s.strangers--
		}
	}), true
}

// accept serves one listener until it is closed.
func (t *Transport) accept(ln net.Listener) {
	for {
		raw, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.quiet.line(clock.Boottime(), levelWarn, "accept", ln.Addr().String(), "connection not accepted", "err", err)
			select { // out of descriptors or memory: others need a moment too
			case <-time.After(acceptRetry):
				continue
			case <-t.ctx.Done():
				return
			}
		}
		remote := addrPort(raw.RemoteAddr())
		leave, ok := t.pending.enter(remote.Addr())
		if ok && !t.accepts.take(remote.Addr(), clock.Boottime()) {
			leave()
			ok = false
		}
		if !ok {
			t.refusedConns.Add(1)
			t.quiet.line(clock.Boottime(), levelWarn, "too many connections", remote.Addr().String(), "connection dropped", "remote", remote)
			abort(raw)
			continue
		}
		t.wg.Go(func() {
			defer leave()
			t.admit(raw, remote, leave)
		})
	}
}

// abort drops a connection without leaving state behind in the kernel.
func abort(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // best effort
	}
	_ = raw.Close() // it was never ours
}

// admit authenticates one connection and serves it. leave frees its place
// among the pending ones.
func (t *Transport) admit(raw net.Conn, remote netip.AddrPort, leave func()) {
	p, c, err := t.authenticate(raw)
	if err != nil {
		_ = raw.Close() // orderly: a refusal or alert may be on its way
		t.admitFailed(p, remote, err)
		return
	}
	leave()
	if err := p.serve(c); errors.Is(err, errNoControl) {
		t.log.Debug("bulk connection sent away", "peer", p.name, "remote", remote, "err", err)
	}
}

// authenticate runs TLS and the greeting under one deadline, so that a slow
// stranger holds its place no longer than an honest one may.
func (t *Transport) authenticate(raw net.Conn) (*peer, *conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.cfg.HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	tc := tls.Server(raw, t.serverTLS())
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("TLS: %w", err)
	}
	cs := tc.ConnectionState()
	p, err := t.identify(&cs)
	if err != nil { // the member list changed meanwhile
		return nil, nil, err
	}
	c, err := p.welcome(tc)
	if err != nil {
		return p, nil, fmt.Errorf("greet: %w", err)
	}
	if err := tuneTCP(raw, c.idle); err != nil {
		return p, nil, err
	}
	if !stop() {
		return p, nil, ctx.Err()
	}
	return p, c, nil
}

func (t *Transport) admitFailed(p *peer, remote netip.AddrPort, err error) {
	if t.ctx.Err() != nil {
		return
	}
	if _, refused := errors.AsType[*RefusedError](err); refused {
		return // told already
	}
	if p != nil && errors.Is(err, io.EOF) {
		// A dialer that had a quicker path, or went away: nothing of note.
		t.log.Debug("connection not used", "peer", p.name, "remote", remote, "err", err)
		return
	}
	t.handshakesFailed.Add(1)
	cause, level := "handshake", levelInfo
	if errors.Is(err, errUnknownKey) || errors.Is(err, errDirection) {
		cause, level = "key", levelWarn
	}
	t.quiet.line(clock.Boottime(), level, cause, remote.Addr().String(), "connection dropped", "remote", remote, "err", err)
}
