package transport

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

const (
	beatMagic      = "HFB\x01" // with the version of the datagram format
	beatHeader     = 20
	exporterLabel  = "EXPORTER-holdfast beat v1"
	sessionIDBytes = 8
	// maxSessions is how many sessions of a peer may be received under. Two
	// are enough unless handshakes break off between hello and ready.
	maxSessions = 4
	// oldSessionNs ends a session that both sides have replaced, even if
	// nothing has come under the new one.
	oldSessionNs = int64(60e9)
	// maxCounter keeps the 12-byte nonce from ever repeating; at one beat
	// per nanosecond it lasts 36 years.
	maxCounter = 1 << 60
)

// session is one set of beat keys, made from one control connection.
type session struct {
	id   uint64
	peer *peer
	send cipher.AEAD
	recv cipher.AEAD

	sendNames []byte // sender and receiver name, end of the additional data
	recvNames []byte

	counter atomic.Uint64 // of the next datagram sent

	mu     sync.Mutex
	window window

	// Guarded by sessions.mu.
	agreed bool  // the peer is known to send under this session or a newer one
	endsNs int64 // CLOCK_BOOTTIME after which it is not received under; 0 never
}

// newSession derives beat keys. Both sides call it with the roles of the TLS
// connection, so that each direction has its own key.
func newSession(cs *tls.ConnectionState, p *peer, weDial bool) (*session, error) {
	self, other := p.t.cfg.Self, p.name
	dialer, listener := other, self
	if weDial {
		dialer, listener = self, other
	}
	keys, err := cs.ExportKeyingMaterial(exporterLabel, []byte(dialer+"\x00"+listener), 64+sessionIDBytes)
	if err != nil {
		return nil, fmt.Errorf("export beat keys: %w", err)
	}
	fromDialer, fromListener := keys[:32], keys[32:64]
	if !weDial {
		fromDialer, fromListener = fromListener, fromDialer
	}
	s := &session{id: binary.BigEndian.Uint64(keys[64:]), peer: p,
		sendNames: []byte(self + "\x00" + other), recvNames: []byte(other + "\x00" + self)}
	if s.send, err = newAEAD(fromDialer); err != nil {
		return nil, err
	}
	if s.recv, err = newAEAD(fromListener); err != nil {
		return nil, err
	}
	clear(keys)
	return s, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make beat cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("make beat cipher: %w", err)
	}
	return aead, nil
}

// sealScratch holds what sealing needs between calls, one per peer.
type sealScratch struct {
	datagram [maxDatagram]byte
	aad      []byte
	nonce    [12]byte
}

// seal returns the datagram for payload under the next counter. It is valid
// until scratch is used again.
func (s *session) seal(scratch *sealScratch, payload []byte) []byte {
	counter := s.counter.Add(1) - 1
	invariant.Check(counter < maxCounter, "beat counter %d reached %d", counter, uint64(maxCounter))
	head := append(scratch.datagram[:0], beatMagic...)
	head = binary.BigEndian.AppendUint64(head, s.id)
	head = binary.BigEndian.AppendUint64(head, counter)
	scratch.aad = append(append(scratch.aad[:0], head...), s.sendNames...)
	binary.BigEndian.PutUint64(scratch.nonce[4:], counter)
	return s.send.Seal(head, scratch.nonce[:], payload, scratch.aad)
}

// openScratch is the same for opening, one per receiving goroutine.
type openScratch struct {
	aad   []byte
	nonce [12]byte
}

// open returns the payload in fresh memory. ok is false for a wrong tag,
// fresh for a counter that was not seen before: the tag comes first, so that
// a forged counter cannot move the window.
func (s *session) open(scratch *openScratch, datagram []byte) (payload []byte, ok, fresh bool) {
	head, sealed := datagram[:beatHeader], datagram[beatHeader:]
	counter := binary.BigEndian.Uint64(head[12:])
	scratch.aad = append(append(scratch.aad[:0], head...), s.recvNames...)
	binary.BigEndian.PutUint64(scratch.nonce[4:], counter)
	payload, err := s.recv.Open(nil, scratch.nonce[:], sealed, scratch.aad)
	if err != nil || counter >= maxCounter {
		return nil, false, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return payload, true, s.window.accept(counter)
}

// sessions are all that beats may arrive under.
type sessions struct {
	mu   sync.RWMutex
	byID map[uint64]*session
	of   map[*peer][]*session // oldest first, at most maxSessions each
}

// add makes s receivable, beside the ones before it: the peer may go on under
// those until it has all it needs for s.
func (ss *sessions) add(s *session) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if s.peer.ctx.Err() != nil { // ended before drop, which would not see s
		return context.Cause(s.peer.ctx)
	}
	if ss.byID[s.id] != nil {
		return fmt.Errorf("beat session id %#x is taken", s.id)
	}
	list := ss.of[s.peer]
	if len(list) == maxSessions {
		victim := 0
		if newestAgreed(list) == 0 { // the one in use stays
			victim = 1
		}
		delete(ss.byID, list[victim].id)
		list = append(list[:victim:victim], list[victim+1:]...)
	}
	ss.byID[s.id] = s
	ss.of[s.peer] = append(list, s)
	return nil
}

func newestAgreed(list []*session) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].agreed {
			return i
		}
	}
	return -1
}

// find returns the session of that id, if it has not ended.
func (ss *sessions) find(id uint64, now int64) *session {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	s := ss.byID[id]
	if s == nil || (s.endsNs != 0 && now > s.endsNs) {
		return nil
	}
	return s
}

// agree notes that the peer sends under s from now on: older sessions get an
// end, so that datagrams on their way still count.
func (ss *sessions) agree(s *session, now int64) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	s.agreed = true
	for _, old := range ss.of[s.peer] {
		if old == s {
			return
		}
		if old.endsNs == 0 {
			old.endsNs = now + oldSessionNs
		}
	}
}

// confirm notes that a datagram has authenticated under s: older sessions end.
func (ss *sessions) confirm(s *session) {
	ss.mu.RLock()
	list := ss.of[s.peer]
	done := len(list) > 0 && list[0] == s && s.agreed
	ss.mu.RUnlock()
	if done {
		return // as for nearly every datagram
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	list = ss.of[s.peer]
	at := slices.Index(list, s)
	if at < 0 {
		return // evicted meanwhile: nothing follows from it
	}
	s.agreed = true
	for _, old := range list[:at] {
		delete(ss.byID, old.id)
	}
	ss.of[s.peer] = slices.Clone(list[at:])
}

// drop ends all sessions of a peer that is no longer a member.
func (ss *sessions) drop(p *peer) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, s := range ss.of[p] {
		delete(ss.byID, s.id)
	}
	delete(ss.of, p)
}
