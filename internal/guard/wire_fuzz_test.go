package guard

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzWire: no packet makes the other process panic, and what was understood
// is what was sent.
func FuzzWire(f *testing.F) {
	f.Add([]byte(`{"k":"testify","t":{"over":"AQI=","targets":["192.0.2.1:7400","[2001:db8::1]:1"],"addresses":[{"p":"10.0.0.100/24","i":"eth0"}],"hang":1000000000}}`)) // all of a testament
	f.Add([]byte(`{"k":"gate","ok":true,"s":"eth0: no such device"}`))                                                                                                   // a text
	f.Add([]byte(`{"k":"testify","t":{"targets":["192.0.2.1"],"hang":-1}}`))                                                                                             // no port, a limit below zero
	f.Add([]byte(`{"k":"ack"}{"k":"stop"}`))                                                                                                                             // two messages in a packet
	f.Add([]byte(`[]`))
	a, file, err := pair()
	if err != nil {
		f.Fatal(err)
	}
	b := &conn{file: file}
	f.Cleanup(func() { _, _ = a.close(), b.close() })
	rc, err := a.file.SyscallConn()
	if err != nil {
		f.Fatal(err)
	}
	buf := make([]byte, maxPacket)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > maxPacket {
			return // an empty packet is the end of the stream
		}
		var sent error
		if err := rc.Control(func(fd uintptr) { sent = unix.Send(int(fd), packet, unix.MSG_DONTWAIT) }); err != nil || sent != nil {
			t.Skip(err, sent) // longer than the buffer of the socket
		}
		m, err := b.receive(buf)
		if err != nil {
			return
		}
		if err := a.send(m); err != nil {
			return // longer in our own spelling
		}
		if again, err := b.receive(buf); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v became %+v: %v", m, again, err)
		}
	})
}
