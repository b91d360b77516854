package vip

import "testing"

// FuzzParseAddress: whatever attributes a message of the kernel has, the watcher
// does not panic, and what is taken for an address is one.
func FuzzParseAddress(f *testing.F) {
	v4 := []byte{2, 24, 0x80, 0, 2, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 1}
	f.Add(v4)                                                      // an address with its local part
	f.Add(v4[:len(v4)-3])                                          // cut in an attribute
	f.Add(v4[:8])                                                  // no attributes
	f.Add(append([]byte{2, 255}, v4[2:]...))                       // a prefix of 255 bits
	f.Add([]byte{10, 64, 0, 0, 1, 0, 0, 0, 255, 255, 1, 0})        // an attribute longer than the message
	f.Add([]byte{2, 24, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, 0, 8, 0}) // one of no length
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b)&^3] // messages are padded, which package netlink relies on
		if k, _, ok := parseAddress(b); ok && !k.prefix.IsValid() {
			t.Fatalf("%x is the address %v", b, k)
		}
	})
}
