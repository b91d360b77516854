package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// The greeting after TLS, dialer's side first:
//
//	hello(channel) ->
//	               <- hello | refusal
//	ready | refusal ->
//
// Beat keys change hands in it without a gap: each side can open under the
// new session before the other may seal under it. The listener adds it before
// its hello and the dialer before its ready; the dialer seals under it after
// sending ready, the listener after receiving ready.

// greet is the dialer's side.
func (p *peer) greet(tc *tls.Conn, ch Channel) (*conn, error) {
	frames := newFrameReader(tc)
	ours := p.t.hello()
	if err := sendHello(tc, ours, ch); err != nil {
		return nil, err
	}
	kind, payload, err := frames.next()
	if err != nil {
		return nil, err
	}
	if kind == kindRefusal {
		return nil, p.told(Hello{}, decodeRefusal(payload, p.name))
	}
	theirs, theirCh, err := readHello(kind, payload)
	if err != nil {
		return nil, err
	}
	if theirCh != ch {
		return nil, fmt.Errorf("%w: hello for %v on %v", errFrame, theirCh, ch)
	}
	s, err := p.judge(tc, ch, ours, theirs, true)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(tc, kindReady, nil); err != nil {
		return nil, err
	}
	return newConn(p, ch, tc, frames, theirs, s), nil
}

// welcome is the listener's side.
func (p *peer) welcome(tc *tls.Conn) (*conn, error) {
	frames := newFrameReader(tc)
	kind, payload, err := frames.next()
	if err != nil {
		return nil, err
	}
	theirs, ch, err := readHello(kind, payload)
	if err != nil {
		return nil, err
	}
	ours := p.t.hello()
	s, err := p.judge(tc, ch, ours, theirs, false)
	if err != nil {
		return nil, err
	}
	if err := sendHello(tc, ours, ch); err != nil {
		return nil, err
	}
	kind, payload, err = frames.next()
	if err != nil {
		return nil, err
	}
	if kind == kindRefusal {
		return nil, p.told(theirs, decodeRefusal(payload, p.name))
	}
	if kind != kindReady {
		return nil, fmt.Errorf("%w: kind %d instead of ready", errFrame, kind)
	}
	return newConn(p, ch, tc, frames, theirs, s), nil
}

// told reports a refusal that came from the peer.
func (p *peer) told(theirs Hello, err error) error {
	if r, ok := errors.AsType[*RefusedError](err); ok {
		p.refused(theirs, r)
	}
	return err
}

func readHello(kind uint8, payload []byte) (Hello, Channel, error) {
	if kind != kindHello {
		return Hello{}, 0, fmt.Errorf("%w: kind %d instead of a hello", errFrame, kind)
	}
	h, ch, err := decodeHello(payload)
	if err == nil && ch.maxPayload() == 0 {
		err = fmt.Errorf("%w: hello for %v", errFrame, ch)
	}
	return h, ch, err
}

// judge refuses the peer's hello aloud or makes the beat session, which is
// nil for bulk.
func (p *peer) judge(tc *tls.Conn, ch Channel, ours, theirs Hello, weDial bool) (*session, error) {
	if refusal := p.check(ours, theirs); refusal != nil {
		// Best effort: the peer also finds out by its own check of our hello.
		_ = writeFrame(tc, kindRefusal, refusal.encode())
		p.refused(theirs, refusal)
		return nil, refusal
	}
	if ch != Control {
		return nil, nil
	}
	cs := tc.ConnectionState()
	s, err := newSession(&cs, p, weDial)
	if err != nil {
		return nil, err
	}
	if err := p.t.sessions.add(s); err != nil {
		return nil, err
	}
	return s, nil
}

func (p *peer) check(ours, theirs Hello) *RefusedError {
	if r := ours.compare(theirs, p.name); r != nil {
		return r
	}
	if p.t.cfg.CheckHello == nil {
		return nil
	}
	if err := p.t.cfg.CheckHello(p.name, theirs); err != nil {
		return &RefusedError{Peer: p.name, Err: ErrHelloRefused, Reason: err.Error()}
	}
	return nil
}

// hello asks the caller for what to say now.
func (t *Transport) hello() Hello {
	h := t.cfg.Hello()
	if h.Version == 0 {
		h.Version = ProtocolVersion
	}
	return h
}

func sendHello(tc *tls.Conn, ours Hello, ch Channel) error {
	raw, err := ours.encode(ch)
	if err != nil {
		return err
	}
	return writeFrame(tc, kindHello, raw)
}

func writeFrame(tc *tls.Conn, kind uint8, payload []byte) error {
	if _, err := tc.Write(append(appendFrameHeader(nil, kind, len(payload)), payload...)); err != nil {
		return fmt.Errorf("write frame of kind %d: %w", kind, err)
	}
	return nil
}
