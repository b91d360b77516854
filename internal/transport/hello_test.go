package transport

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestHelloRoundTrip(t *testing.T) {
	h := Hello{Version: ProtocolVersion, ClusterName: "site-a", ClusterID: [16]byte{1, 2}, Profile: "50ms/500ms/20ms",
		RaftID: 7, Incarnation: 8, Members: [32]byte{9}, Founded: true, Empty: true, Binary: "1.2.3"}
	raw, err := h.encode(Bulk)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > maxGreeting {
		t.Fatalf("%d bytes", len(raw))
	}
	got, ch, err := decodeHello(raw)
	if err != nil || ch != Bulk || !reflect.DeepEqual(got, h) {
		t.Fatalf("got %+v, %v, %v", got, ch, err)
	}
	for n := range len(raw) {
		if _, _, err := decodeHello(raw[:n]); err == nil {
			t.Errorf("took the first %d of %d bytes", n, len(raw))
		}
	}
	if _, _, err := decodeHello(append(raw, 0)); err == nil {
		t.Error("took a trailing byte")
	}
	if _, err := (Hello{Binary: strings.Repeat("x", maxText+1)}).encode(Control); err == nil {
		t.Error("encoded a text over the limit")
	}
}

func TestRefusalTurnsAround(t *testing.T) {
	for _, cause := range refusalCodes {
		sent := &RefusedError{Peer: "b", Ours: "1", Theirs: strings.Repeat("2", 300), Err: cause}
		var got *RefusedError
		if err := decodeRefusal(sent.encode(), "a"); !errors.As(err, &got) || !errors.Is(err, cause) {
			t.Fatalf("got %v", err)
		}
		if got.Peer != "a" || !got.Remote || got.Theirs != "1" || got.Ours != strings.Repeat("2", maxText) {
			t.Errorf("got %+v", got)
		}
	}
	for _, raw := range [][]byte{nil, {0, 0, 0, 0}, {byte(len(refusalCodes) + 1), 0, 0, 0}, {1, 0, 0}, {1, 0, 0, 0, 0}} {
		if err := decodeRefusal(raw, "a"); !errors.Is(err, errFrame) {
			t.Errorf("%x: %v", raw, err)
		}
	}
}

func FuzzHello(f *testing.F) {
	full, _ := Hello{Version: ProtocolVersion, ClusterName: "c", Profile: "p", Binary: "b", Founded: true}.encode(Control)
	f.Add(full)                           // every field set
	f.Add(full[:10])                      // cut inside a text
	f.Add([]byte{0, 9, 1, 255})           // another version: only three bytes count
	f.Add(bytes.Repeat([]byte{255}, 400)) // lengths beyond the end
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, ch, err := decodeHello(raw)
		if err != nil || h.Version != ProtocolVersion {
			return
		}
		again, err := h.encode(ch)
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%x became %x, %v", raw, again, err)
		}
		_ = decodeRefusal(raw, "x")
	})
}
