package vip

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// conversation opens a TCP connection from b to a listener on a and returns
// a's end of it.
func conversation(t *testing.T, a, b *space, l net.Listener, host string) net.Conn {
	t.Helper()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	client := b.dial(t, "tcp", nil, net.JoinHostPort(host, port))
	server, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { _ = server.Close() })
	_, err = client.Write([]byte("x"))
	must(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	must(t, err)
	return server
}

// reading tells when a blocked read ended, and how.
func reading(c net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	return done
}

func wait(t *testing.T, what string, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		t.Fatalf("%s never ended", what)
		return nil
	}
}

func TestDestroySockets(t *testing.T) {
	a, b := pair(t)
	for _, p := range []string{"192.0.2.2/24", "2001:db8::2/64"} {
		a.address(t, "lan0", p)
		b.address(t, "lan0", strings.Replace(p, "2/", "3/", 1))
	}
	m := a.manager(t)
	for _, tc := range []struct{ name, network, listen, vip, own, peer string }{
		{"IPv4", "tcp4", "192.0.2.100:0", "192.0.2.100/24", "192.0.2.2", "192.0.2.3"},
		{"IPv6", "tcp6", "[2001:db8::100]:0", "2001:db8::100/64", "2001:db8::2", "2001:db8::3"},
		{"mapped", "tcp", "[::]:0", "192.0.2.101/24", "192.0.2.2", "192.0.2.3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := addr(tc.vip)
			ip := v.Prefix.Addr()
			must(t, m.Add(v))
			l := a.listen(t, tc.network, tc.listen)
			dying := conversation(t, a, b, l, ip.String())
			if !strings.HasPrefix(dying.LocalAddr().String(), strings.SplitN(l.Addr().String(), "]", 2)[0]) && tc.name != "mapped" {
				t.Fatalf("connection is on %v", dying.LocalAddr())
			}
			other := a.listen(t, tc.network, net.JoinHostPort(tc.own, "0"))
			living := conversation(t, a, b, other, tc.own)
			udp := a.dial(t, "udp", &net.UDPAddr{IP: ip.AsSlice()}, net.JoinHostPort(tc.peer, "9"))
			ended, endedUDP := reading(dying), reading(udp)

			start := time.Now()
			d, err := m.DestroySockets(ip)
			took := time.Since(start)
			if err != nil || d != (Destroyed{TCP: 1, UDP: 1}) {
				t.Fatalf("destroyed %+v, %v", d, err)
			}
			for what, c := range map[string]<-chan error{"TCP": ended, "UDP": endedUDP} {
				if err := wait(t, what, c); !isErrno(err, unix.ECONNABORTED) {
					t.Fatalf("%s ended with %v", what, err)
				}
			}
			t.Logf("destroyed in %v, noticed within %v", took, time.Since(start))

			// Nothing else died, and the listener serves the next client.
			_, err = living.Write([]byte("x"))
			must(t, err)
			conversation(t, a, b, l, ip.String())
			if d, err = m.DestroySockets(ip); err != nil || d.TCP != 1 {
				t.Fatalf("the second time destroyed %+v, %v", d, err)
			}
			if d, err = m.DestroySockets(ip); err != nil || d != (Destroyed{}) {
				t.Fatalf("the third time destroyed %+v, %v", d, err)
			}
		})
	}
}

func TestDestroySocketsErrors(t *testing.T) {
	if err := explainDiag(unix.EOPNOTSUPP); !errors.Is(err, ErrUnsupported) || !isErrno(err, unix.EOPNOTSUPP) {
		t.Fatalf("got %v", err)
	}
	if err := explainDiag(unix.EPERM); errors.Is(err, ErrUnsupported) || !isErrno(err, unix.EPERM) {
		t.Fatalf("got %v", err)
	}
	if _, err := newSpace(t).manager(t).DestroySockets(netip.Addr{}); err == nil {
		t.Fatal("the zero address was accepted")
	}
}
