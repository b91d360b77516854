package netfence

import (
	"encoding/binary"
	"net/netip"

	"github.com/holdfast-ha/holdfast/bpf"
)

// VIPs returns the guarded addresses, those of an earlier guard included. A
// guard removes from the host whatever it leaves out of its next SetVIPs.
func (f *Fence) VIPs() ([]VIP, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []VIP
	var k bpf.GateAddress
	var group uint32
	it := f.t.maps["vips"].Iterate()
	for it.Next(&k, &group) {
		out = append(out, VIP{Addr: addrOf(k), Group: uint16(group)})
	}
	if err := it.Err(); err != nil {
		return nil, explain("read VIPs", err)
	}
	return out, nil
}

// addrOf is the inverse of address.
func addrOf(k bpf.GateAddress) netip.Addr {
	var b [16]byte
	for i, w := range k.W {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}
