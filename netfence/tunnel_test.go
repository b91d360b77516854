package netfence

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLinkWithoutEthernet covers tunnels: no Ethernet header, no MAC.
func TestLinkWithoutEthernet(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			tun := openTun(t, "tun0")
			run(t, "ip", "link", "set", "tun0", "up")
			addAddrs(t, "tun0", "10.9.0.1/24", "10.9.0.100/32", "fd09::1/64", "fd09::100/128")
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			check(t, f.Verify())
			g := openGate(t, f, 7)
			if tun.echoes(t, vip4, 200*time.Millisecond) || tun.echoes(t, vip6, 200*time.Millisecond) {
				t.Error("closed VIP answers on a tunnel")
			}
			if !tun.echoes(t, own4, 10*time.Second) || !tun.echoes(t, own6, 10*time.Second) {
				t.Error("own address does not answer on a tunnel")
			}
			open(t, g, vipGroup)
			if !tun.echoes(t, vip4, 10*time.Second) || !tun.echoes(t, vip6, 10*time.Second) {
				t.Error("open VIP does not answer on a tunnel")
			}
			check(t, g.CloseGroup(vipGroup))
			c, err := g.Counters()
			check(t, err)
			// What the host itself sends as the VIP is dropped as well.
			_ = exec.Command("ping", "-c", "1", "-W", "0.1", "-I", vip4.String(), other4.String()).Run()
			after, err := g.Counters()
			check(t, err)
			if c["ip_in"] == 0 || c["ip6_in"] == 0 || after["ip_out"] == c["ip_out"] {
				t.Errorf("counters: %v, then %v", c, after)
			}
			check(t, f.Detach())
		})
	}
}

type tunDevice struct{ f *os.File }

func openTun(t testing.TB, name string) tunDevice {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no tun devices: %v", err)
		}
		t.Skipf("no tun devices: %v", err)
	}
	ifr, err := unix.NewIfreq(name)
	check(t, err)
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	f := os.NewFile(uintptr(fd), "tun")
	t.Cleanup(func() { _ = f.Close() })
	return tunDevice{f}
}

// echoes sends an echo request into the host and tells whether it answers.
func (d tunDevice) echoes(t testing.TB, to netip.Addr, wait time.Duration) bool {
	t.Helper()
	var p []byte
	var at int // of the ICMP type
	var want byte
	if to.Is4() {
		p, at, want = ip4(other4, to, protoICMP, icmp4Echo()), 20, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	} else {
		p, at, want = ip6(other6, to, protoICMP6, 64, icmp6Echo(other6, to)), 40, 129
	}
	if _, err := d.f.Write(p); err != nil {
		t.Fatalf("write to tunnel: %v", err)
	}
	check(t, d.f.SetReadDeadline(time.Now().Add(wait)))
	buf := make([]byte, 2048)
	for {
		n, err := d.f.Read(buf)
		if err != nil {
			return false
		}
		if n > at && buf[0]>>4 == p[0]>>4 && buf[at] == want && bytes.Contains(buf[:at], to.AsSlice()) {
			return true
		}
	}
}

func icmp4Echo() []byte {
	b := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

func icmp6Echo(src, dst netip.Addr) []byte {
	b := []byte{128, 0, 0, 0, 0, 1, 0, 1}
	pseudo := bytes.Join([][]byte{src.AsSlice(), dst.AsSlice(), {0, 0, 0, 8, 0, 0, 0, 58}, b}, nil)
	binary.BigEndian.PutUint16(b[2:], checksum(pseudo))
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
