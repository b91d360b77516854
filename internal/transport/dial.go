package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

const (
	retryFirst, retryMax     = 20 * time.Millisecond, 500 * time.Millisecond
	refusedFirst, refusedMax = time.Second, 5 * time.Second
	// stagger is how long one address has before the next is tried beside it.
	stagger = 50 * time.Millisecond
	// settled is how long a connection must live to count as success: two
	// nodes with one key would otherwise replace each other without pause.
	settled = time.Second
)

// backoff gives growing pauses with jitter; another kind of failure starts
// its own growth.
type backoff struct {
	next    time.Duration
	refused bool
}

func (b *backoff) reset() { b.next = 0 }

// pause returns how long to wait after a failure.
func (b *backoff) pause(refused bool) time.Duration {
	first, limit := retryFirst, retryMax
	if refused {
		first, limit = refusedFirst, refusedMax
	}
	if b.next == 0 || b.refused != refused {
		b.next, b.refused = first, refused
	}
	d := b.next
	b.next = min(2*d, limit)
	return d - time.Duration(rand.Int64N(int64(d)/4+1)) // up to a quarter shorter
}

// dialLoop keeps one channel to the peer up until the peer is stopped.
func (p *peer) dialLoop(ch Channel) {
	var b backoff
	first := 0 // index of the address that worked last
	for p.ctx.Err() == nil {
		if ch == Bulk && !p.awaitControl() {
			return
		}
		c, which, err := p.dial(ch, first)
		if err == nil {
			first = which
			began := time.Now()
			err = p.serve(c)
			if time.Since(began) >= settled {
				b.reset()
			}
		} else if errors.Is(err, errAwake) {
			b.reset()
			continue
		} else {
			p.dialFailed(ch, err)
		}
		_, refused := errors.AsType[*RefusedError](err)
		p.rest(&b, b.pause(refused), refused, ch)
	}
}

// awaitControl waits until the control connection is up; false at the end.
func (p *peer) awaitControl() bool {
	for p.control.Load() == nil {
		select {
		case <-p.wakeBulk:
		case <-p.ctx.Done():
			return false
		}
	}
	return true
}

// rest waits, but not longer than until the peer shows that it is back. A
// refusal is for people to mend, so that wait is served in full.
func (p *peer) rest(b *backoff, pause time.Duration, refused bool, ch Channel) {
	wake := p.wakeDial
	if refused || ch == Bulk {
		wake = nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
		b.reset()
	case <-p.ctx.Done():
	}
}

func (p *peer) dialFailed(ch Channel, err error) {
	if _, refused := errors.AsType[*RefusedError](err); refused || p.ctx.Err() != nil {
		return // told already
	}
	text := err.Error()
	p.lastError.Store(&text)
	cause := "connect " + ch.String()
	if errors.Is(err, errWrongKey) || errors.Is(err, errKeyRefused) {
		cause = "key" // must not drown among the failures of a peer that is still starting
	}
	p.t.quiet.line(clock.Boottime(), levelWarn, cause, p.name, "peer not reached", "peer", p.name, "err", err)
}

// dial tries all addresses, beginning with first, and greets on the one that
// has finished TLS soonest. It returns that one's index.
func (p *peer) dial(ch Channel, first int) (*conn, int, error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.t.cfg.HandshakeTimeout)
	defer cancel()
	tc, which, err := p.raceUntilAwake(ctx, ch, first)
	if err != nil {
		return nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = tc.NetConn().Close() })
	c, err := p.greet(tc, ch)
	if err == nil {
		err = tuneTCP(tc.NetConn(), c.idle)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = tc.NetConn().Close() // the handshake's error is the one to report
		return nil, 0, fmt.Errorf("dial %s: %w", tc.RemoteAddr(), explain(err))
	}
	return c, which, nil
}

// explain says what the end of the connection right after TLS means: in TLS
// 1.3 the dialer learns only then that its key was not accepted.
func explain(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if (ok && op.Op == "remote error") || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%w: %w", errKeyRefused, err)
	}
	return err
}

// errAwake says that the peer showed itself while we were dialling.
var errAwake = errors.New("peer is back: dialling anew")

// raceUntilAwake is race, given up at the first sign of life of a peer that was
// silent: a SYN that was sent into the void is sent again only after a second,
// and for so long there would be beats and no votes.
func (p *peer) raceUntilAwake(ctx context.Context, ch Channel, first int) (*tls.Conn, int, error) {
	if ch == Bulk {
		return p.race(ctx, first)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watcher sync.WaitGroup
	ended := make(chan struct{})
	watcher.Go(func() {
		select {
		case <-p.wakeDial:
			cancel(errAwake)
		case <-ended:
		}
	})
	tc, which, err := p.race(ctx, first)
	close(ended)
	watcher.Wait()
	if err != nil && errors.Is(context.Cause(ctx), errAwake) {
		err = errAwake
	}
	return tc, which, err
}

type attempt struct {
	tc    *tls.Conn
	which int
	err   error
}

// race starts an attempt on each address, one every stagger or as soon as the
// one before has failed. All attempts have ended when it returns.
func (p *peer) race(ctx context.Context, first int) (*tls.Conn, int, error) {
	ctx, cancel := context.WithCancel(ctx)
	paths := p.currentPaths()
	results := make(chan attempt, len(paths))
	var wg sync.WaitGroup
	defer func() { // losers end at once, winners too late are closed
		cancel()
		wg.Wait()
		close(results)
		for a := range results {
			if a.tc != nil {
				_ = a.tc.NetConn().Close()
			}
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for started := 0; len(errs) < len(paths); {
		select {
		case <-timer.C:
		case a := <-results:
			if a.err == nil {
				return a.tc, a.which, nil
			}
			errs = append(errs, a.err)
		}
		if started < len(paths) {
			which := (first + started) % len(paths)
			started++
			wg.Go(func() {
				tc, err := p.connect(ctx, paths[which])
				results <- attempt{tc, which, err}
			})
			timer.Reset(stagger)
		}
	}
	return nil, 0, errors.Join(errs...)
}

type dialPath struct {
	addr  netip.AddrPort
	local netip.Addr // zero when no own address has the family
}

func (p *peer) currentPaths() []dialPath {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	out := make([]dialPath, 0, len(p.paths))
	for _, pa := range p.paths {
		d := dialPath{addr: pa.addr}
		if pa.local >= 0 {
			d.local = p.t.own[pa.local].Addr()
		}
		out = append(out, d)
	}
	return out
}

// connect dials one address and proves keys. It dials from the own address of
// that path: the kernel might choose a VIP, which moves away.
func (p *peer) connect(ctx context.Context, pa dialPath) (*tls.Conn, error) {
	if !pa.local.IsValid() {
		return nil, fmt.Errorf("dial %s: %w", pa.addr, errNoFamily)
	}
	d := net.Dialer{
		LocalAddr:       net.TCPAddrFromAddrPort(netip.AddrPortFrom(pa.local, 0)),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5},
		Control: control(func(fd int) error {
			setClass(fd, pa.local)
			// Else a busy host could run out of ports before connect.
			_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			return nil
		}),
	}
	d.SetMultipathTCP(false)
	raw, err := d.DialContext(ctx, family("tcp", pa.local), pa.addr.String())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	tc := tls.Client(raw, p.clientTLS())
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is the one to report
		return nil, fmt.Errorf("TLS with %s: %w", pa.addr, err)
	}
	return tc, nil
}
