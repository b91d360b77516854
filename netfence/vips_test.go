package netfence

import (
	"net/netip"
	"testing"
)

func TestAddressRoundTrip(t *testing.T) {
	for _, s := range []string{"10.77.0.100", "255.255.255.254", "fd77::100", "2001:db8::1:2:3:4"} {
		a := netip.MustParseAddr(s)
		if got := addrOf(address(a)); got != a {
			t.Errorf("%v comes back as %v", a, got)
		}
	}
}
