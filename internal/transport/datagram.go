package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// noteMagic begins every note (lease.Note).
const noteMagic = "HFN1"

// receive serves one UDP socket until it is closed.
func (t *Transport) receive(s *udpSocket) {
	// Longer than any datagram of ours, so that longer ones show.
	buf := make([]byte, maxDatagram+1)
	var scratch openScratch
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		received := clock.Boottime() // G8: after the datagram was there, never cached
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.quiet.line(received, levelWarn, "receive", s.addr.String(), "datagram not received", "err", err)
			select {
			case <-time.After(acceptRetry):
				continue
			case <-t.ctx.Done():
				return
			}
		}
		t.datagram(s, &scratch, buf[:n], from, received)
	}
}

func (t *Transport) datagram(s *udpSocket, scratch *openScratch, raw []byte, from netip.AddrPort, received int64) {
	switch {
	case len(raw) <= maxDatagram && bytes.HasPrefix(raw, []byte(beatMagic)) && len(raw) >= beatOverhead:
		t.beat(s, scratch, raw, from, received)
	case bytes.HasPrefix(raw, []byte(noteMagic)):
		t.note(raw, from, received)
	default:
		t.malformed.Add(1)
		t.quiet.line(received, levelInfo, "malformed", from.Addr().String(), "datagram dropped", "bytes", len(raw))
	}
}

func (t *Transport) beat(own *udpSocket, scratch *openScratch, raw []byte, from netip.AddrPort, received int64) {
	s := t.sessions.find(binary.BigEndian.Uint64(raw[4:]), received)
	if s == nil {
		// Usual for a moment when one side has restarted, so not worth a
		// line of its own: the connection's end has been logged.
		t.unknownSession.Add(1)
		return
	}
	p := s.peer
	payload, ok, fresh := s.open(scratch, raw)
	switch {
	case !ok:
		p.authFailures.Add(1)
		t.quiet.line(received, levelWarn, "forged beat", p.name, "datagram dropped", "peer", p.name, "from", from)
	case !fresh:
		p.replays.Add(1)
		t.quiet.line(received, levelWarn, "replayed beat", p.name, "datagram dropped", "peer", p.name, "from", from)
	default:
		t.sessions.confirm(s)
		p.heard(own.index, received)
		t.cfg.Handler.OnBeat(p.name, own.index, payload, received)
	}
}

func (t *Transport) note(raw []byte, from netip.AddrPort, received int64) {
	if len(raw) != t.cfg.NoteSize {
		t.notesSize.Add(1)
		t.quiet.line(received, levelInfo, "note size", from.Addr().String(), "note dropped", "bytes", len(raw))
		return
	}
	switch t.notes.check(raw, from.Addr(), received) {
	case noteDuplicate:
		t.notesDuplicate.Add(1)
	case noteLimited:
		t.notesLimited.Add(1)
		t.quiet.line(received, levelWarn, "note rate", from.Addr().String(), "note dropped", "from", from)
	case notePass:
		t.notesIn.Add(1)
		t.cfg.Handler.OnNote(bytes.Clone(raw), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}
