package transport

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// readOnlyConn is a connection that gives what is in a reader.
type readOnlyConn struct {
	net.Conn
	io.Reader
}

func (c readOnlyConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// FuzzFrames: whatever a connection brings, no frame is longer than the limit
// that holds at that point, and frames are what was sent, byte for byte.
func FuzzFrames(f *testing.F) {
	hello := append(appendFrameHeader(nil, kindHello, 3), "abc"...)
	f.Add(hello, uint16(3))                                                              // one greeting
	f.Add(append(bytes.Clone(hello), appendFrameHeader(nil, kindPing, 0)...), uint16(1)) // and an empty frame
	f.Add(appendFrameHeader(nil, kindHello, maxGreeting+1), uint16(9))                   // longer than a greeting may be
	f.Add([]byte{255, 255, 255, 255, 1}, uint16(2))                                      // a length beyond all memory
	f.Add(hello[:6], uint16(5))                                                          // cut in the payload
	f.Fuzz(func(t *testing.T, stream []byte, limit uint16) {
		r := newFrameReader(readOnlyConn{Reader: bytes.NewReader(stream)})
		var again []byte
		for n := 0; ; n++ {
			if n == 1 { // the greeting is over
				r.limit = int(limit)
			}
			kind, payload, err := r.next()
			if err != nil {
				break
			}
			if len(payload) > r.limit {
				t.Fatalf("%d bytes under a limit of %d", len(payload), r.limit)
			}
			again = append(appendFrameHeader(again, kind, len(payload)), payload...)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Fatalf("%x was read as %x", stream, again)
		}
	})
}

// heard keeps what a Handler is given of datagrams.
type heard struct {
	Handler
	beats, notes [][]byte
}

func (h *heard) OnBeat(_ string, _ int, payload []byte, _ int64) {
	h.beats = append(h.beats, payload)
}
func (h *heard) OnNote(note []byte, _ netip.AddrPort) { h.notes = append(h.notes, note) }

// datagramRig is a transport without sockets, with one session under which a
// peer named b may send.
func datagramRig(t testing.TB, h Handler) (*Transport, *session) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	tr := &Transport{cfg: Config{Self: "a", Handler: h, NoteSize: testNoteSize, Logger: log}, log: log,
		sessions: sessions{byID: map[uint64]*session{}, of: map[*peer][]*session{}},
		notes:    newNoteFilter(), quiet: newQuietLog(log)}
	p := &peer{t: tr, name: "b", arrivals: make([]arrival, 1), wakeDial: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancelCause(t.Context())
	aead, err := newAEAD(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &session{id: 7, peer: p, send: aead, recv: aead, sendNames: []byte("b\x00a"), recvNames: []byte("b\x00a")}
	if err := tr.sessions.add(s); err != nil {
		t.Fatal(err)
	}
	return tr, s
}

// FuzzDatagram: of what arrives at the UDP port, beats are taken once and only
// with the key of a session, notes only in their size and once, and the rest
// is dropped.
func FuzzDatagram(f *testing.F) {
	_, s := datagramRig(f, &heard{})
	var scratch sealScratch
	sealed := bytes.Clone(s.seal(&scratch, []byte("beat")))
	f.Add(sealed, []byte("next"))                                               // a beat of the peer
	f.Add(sealed[:len(sealed)-1], []byte{})                                     // its tag cut
	f.Add(append(bytes.Clone(sealed[:beatHeader]), sealed...), []byte{1})       // the header twice
	f.Add([]byte(beatMagic), []byte{})                                          // nothing but the magic
	f.Add(append([]byte(noteMagic), make([]byte, testNoteSize-4)...), []byte{}) // a note by its size
	f.Add([]byte(noteMagic), []byte{})                                          // too short a note
	f.Add(make([]byte, maxDatagram+1), []byte{})                                // longer than any
	from := netip.MustParseAddrPort("192.0.2.1:7400")
	f.Fuzz(func(t *testing.T, raw, payload []byte) {
		got := &heard{}
		tr, s := datagramRig(t, got)
		own, scratch := &udpSocket{}, openScratch{}
		give := func(b []byte) { tr.datagram(own, &scratch, bytes.Clone(b), from, 1e9) }
		give(raw)
		give(raw)
		taken := len(got.beats) // the fuzzer can repeat a seed that was sealed
		if taken > 1 || taken == 1 && !bytes.Equal(raw, sealed) {
			t.Fatalf("took %x as a beat", raw)
		}
		if n := len(got.notes); n > 1 || n == 1 && (len(raw) != testNoteSize || !bytes.Equal(got.notes[0], raw)) {
			t.Fatalf("took %d notes from %x", n, raw)
		}
		if len(payload) > MaxBeatSize {
			return
		}
		s.counter.Store(1)
		var seal sealScratch
		b := bytes.Clone(s.seal(&seal, payload))
		for i := range b { // one bit is enough to be refused
			b[i] ^= 0x10
			give(b)
			b[i] ^= 0x10
		}
		give(b)
		give(b)
		if len(got.beats) != taken+1 || !bytes.Equal(got.beats[taken], payload) {
			t.Fatalf("a beat of %x was taken %d times", payload, len(got.beats)-taken)
		}
	})
}

// FuzzKeys: what is taken as a key can be used as one, and the public form has
// one spelling.
func FuzzKeys(f *testing.F) {
	_, key, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(EncodePublicKey(key.Public().(ed25519.PublicKey))))                // a key
	f.Add([]byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="))                   // a point of small order
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")) // no PKCS#8
	f.Fuzz(func(t *testing.T, text []byte) {
		if pub, err := ParsePublicKey(string(text)); err == nil {
			if EncodePublicKey(pub) != string(text) {
				t.Fatalf("two spellings of %x", pub)
			}
			_ = ed25519.Verify(pub, nil, make([]byte, ed25519.SignatureSize))
		}
		if key, err := parsePrivateKey(text); err == nil {
			_ = ed25519.Sign(key, nil)
		}
	})
}
