package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Covers C3, S6, F1a
func TestMemberThatDoesNotBelongIsRefused(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	w.failover(t, "gw1")
	other := filepath.Join(t.TempDir(), "other.key")
	public := regexp.MustCompile(`[A-Za-z0-9+/]{43}=`).FindString(w.cli(t, "gw2", 0, "keygen", "-o", other).Stdout)
	for _, c := range []struct {
		name   string
		change func(lab.Table)
		words  []string // of the line that the others log
	}{
		{"wrong key", func(c lab.Table) {
			c["node"].(lab.Table)["key_file"] = other
			c["member"].([]lab.Table)[1]["public_key"] = public
		}, []string{"key"}},
		{"wrong cluster name", func(c lab.Table) { c["cluster"] = "elsewhere" }, []string{"peer refused", "peer=gw2", "lab-" + w.lab.ID, "elsewhere"}},
		{"wrong profile", func(c lab.Table) { c["timing"] = lab.Table{"profile": "fast"} }, []string{"peer refused", "peer=gw2", "50ms/500ms/20ms", "10ms/120ms/5ms"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, epoch := w.watch(t), w.epoch(t, "gw1")
			w.stop(t, "gw2")
			before := map[string]int{}
			for _, n := range []string{"gw1", "w1"} {
				before[n] = len(w.log(t, n))
			}
			check(t, w.WriteConfig("gw2", c.change))
			w.start(t, "gw2")
			for _, n := range []string{"gw1", "w1"} {
				eventually(t, func() error {
					if len(lines(w.log(t, n)[before[n]:], append(c.words, "level=WARN")...)) == 0 {
						return fmt.Errorf("%s has logged no line with %q", n, c.words)
					}
					return nil
				})
			}
			w.seen(t, "gw1", func(r *report) error {
				if r.reachable("gw2") {
					return errors.New("gw2 is still reachable")
				}
				return nil
			})
			always(t, 3*time.Second, func() error {
				if s, err := w.status("gw2"); err == nil && (s.Lease.Held || s.Role == "holder" || s.Quorum.OK) {
					return fmt.Errorf("gw2: role %q, lease %+v, quorum %+v", s.Role, s.Lease, s.Quorum)
				}
				s, err := w.status("gw1")
				if err == nil && (s.Role != "holder" || s.reachable("gw2")) {
					return fmt.Errorf("gw1: role %q, gw2 reachable %v", s.Role, s.reachable("gw2"))
				}
				return err
			})
			for _, n := range []string{"gw1", "w1"} {
				// Both directions of connecting, each at most once a minute.
				if said := lines(w.log(t, n)[before[n]:], append(c.words, "level=WARN")...); len(said) > 2 {
					t.Errorf("%s says it %d times:\n%s", n, len(said), strings.Join(said, "\n"))
				}
			}
			w.stop(t, "gw2")
			check(t, w.WriteConfig("gw2", nil))
			w.start(t, "gw2")
			w.ready(t)
			p.untouched()
			if e := w.epoch(t, "gw1"); e != epoch {
				t.Errorf("epoch %d became %d", epoch, e)
			}
		})
	}
}

// packets opens a packet socket at a port in the lan namespace: what a node
// sends into its cable is read there, and what is written there it receives.
func (w *world) packets(t *testing.T, port string) int {
	t.Helper()
	fd := -1
	check(t, w.lab.Do(lab.Lan, func() (err error) {
		nic, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		var all [2]byte
		binary.BigEndian.PutUint16(all[:], unix.ETH_P_ALL)
		proto := binary.NativeEndian.Uint16(all[:])
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: nic.Index})
	}))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// record reads the datagrams for the peer port that a node sends to a MAC.
func record(fd int, to net.HardwareAddr, d time.Duration) (frames [][]byte) {
	buf := make([]byte, 2048)
	for end := time.Now().Add(d); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			continue // nothing came, or the cable was down meanwhile
		}
		const udp, dport = 17, 14 + 20 + 2
		if n > 42 && [6]byte(buf[:6]) == [6]byte(to) && buf[23] == udp && binary.BigEndian.Uint16(buf[dport:]) == lab.PeerPort {
			f := append([]byte(nil), buf[:n]...)
			// The sender leaves the sum to a network card that is not there; 0
			// means that there is none (RFC 768).
			f[40], f[41] = 0, 0
			frames = append(frames, f)
		}
	}
	return frames
}

// Covers C3, S6, G5, G8
func TestReplayedBeatsAndNotesChangeNothing(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: func(_ *lab.Node, cfg lab.Table) {
		cfg["placement"] = lab.Table{"fence_delay": "0s"}
	}})
	w.failover(t, "gw1")
	from, into := w.packets(t, "gw2"), w.packets(t, "gw1")
	gw1, err := w.lab.Node("gw1")
	check(t, err)
	inject := func(frames [][]byte) {
		t.Helper()
		for _, f := range frames {
			if _, err := unix.Write(into, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, epoch := w.watch(t), w.epoch(t, "gw1")
	beats := record(from, gw1.NICs[0].MAC, time.Second)
	if len(beats) < 10 {
		t.Fatalf("%d datagrams of gw2 in a second", len(beats))
	}
	replays := func() float64 {
		t.Helper()
		_, body := w.get(t, "gw1", "/metrics")
		m := regexp.MustCompile(`(?m)^holdfast_refused_total\{reason="replay"\} (\S+)$`).FindStringSubmatch(body)
		if m == nil {
			t.Fatal("/metrics does not count replays")
		}
		n, err := strconv.ParseFloat(m[1], 64)
		check(t, err)
		return n
	}
	before := replays()
	for range 5 {
		inject(beats)
	}
	eventually(t, func() error {
		if n := replays(); n < before+float64(len(beats)) {
			return fmt.Errorf("%v replays counted after %d, before %v", n, 5*len(beats), before)
		}
		return nil
	})
	// Its worker ends: there are notes too, and a session that is gone.
	f := broken(t)(w.PowerCut("gw2"))
	w.seen(t, "gw1", func(r *report) error {
		if r.reachable("gw2") {
			return errors.New("gw2 is not gone")
		}
		return nil
	})
	always(t, 2*time.Second, func() error {
		inject(beats)
		r, err := w.status("gw1")
		if err != nil {
			return err
		}
		if r.reachable("gw2") || r.Role != "holder" {
			return fmt.Errorf("replayed beats count: gw2 reachable %v, role %q", r.reachable("gw2"), r.Role)
		}
		return nil
	})
	w.mend(t, f)
	p.untouched()
	if e := w.epoch(t, "gw1"); e != epoch {
		t.Errorf("replayed beats moved epoch %d to %d", epoch, e)
	}

	// An `over` note of an earlier worker ends nothing of the present one.
	seen := make(chan [][]byte, 1)
	go func() { seen <- record(from, gw1.NICs[0].MAC, 2*time.Second) }()
	time.Sleep(100 * time.Millisecond) // recording goes on while the worker dies
	broken(t)(w.KillWorker("gw2"))
	notes := <-seen
	notes = slicesKeep(notes, func(f []byte) bool { return len(f) > 46 && string(f[42:46]) == "HFN1" })
	if len(notes) == 0 {
		t.Fatal("the death of a worker sent no note")
	}
	w.ready(t)
	p = w.watch(t)
	w.failover(t, "gw2")
	p.owner("gw2")
	epoch = w.epoch(t, "gw2")
	for range 20 {
		inject(notes)
		inject(beats)
		time.Sleep(20 * time.Millisecond)
	}
	w.ready(t)
	if e := w.epoch(t, "gw2"); e != epoch {
		t.Errorf("replayed notes moved epoch %d to %d", epoch, e)
	}
	p.safeWithin(undisturbed)
}

func slicesKeep(frames [][]byte, keep func([]byte) bool) (out [][]byte) {
	for _, f := range frames {
		if keep(f) {
			out = append(out, f)
		}
	}
	return out
}

// resident is the memory of a process, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(raw)
	if m == nil {
		t.Fatalf("no VmRSS of %d", pid)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	check(t, err)
	return n << 10
}

// Covers C3, S2, S6
func TestJunkAndPortScansDoNotDisturb(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: func(_ *lab.Node, cfg lab.Table) {
		cfg["log"].(lab.Table)["level"] = "info"
	}})
	holder := w.holder(t)
	worker := func() int {
		t.Helper()
		pid, err := w.WorkerPID(holder)
		check(t, err)
		return pid
	}
	target := net.JoinHostPort(w.address(t, holder, "eth0").String(), strconv.Itoa(lab.PeerPort))
	pid := worker()
	p, epoch := w.watch(t), w.epoch(t, holder)
	before, logged := resident(t, pid), len(w.log(t, holder))

	end := time.Now().Add(10 * time.Second)
	var attack sync.WaitGroup
	attack.Go(func() { // connections with junk, many held open
		var open []net.Conn
		for i := range 4000 {
			if time.Now().After(end) {
				break
			}
			err := w.lab.Do("c1", func() error {
				conn, err := net.DialTimeout("tcp4", target, 50*time.Millisecond)
				if err != nil {
					return nil // refused or no room: as good
				}
				junk := make([]byte, 200)
				for j := range junk {
					junk[j] = byte(rand.Uint32())
				}
				if i%3 != 0 {
					_, _ = conn.Write(junk)
				}
				open = append(open, conn)
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			if len(open) > 500 {
				open[0].Close()
				open = open[1:]
			}
		}
		t.Logf("%d connections open at the end", len(open))
		for _, c := range open {
			c.Close()
		}
	})
	attack.Go(func() {
		var conn net.Conn
		err := w.lab.Do("c1", func() (err error) {
			conn, err = net.Dial("udp4", target)
			return err
		})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for i := range 40000 {
			if time.Now().After(end) {
				break
			}
			junk := make([]byte, 1+rand.IntN(1400))
			for j := range min(len(junk), 64) {
				junk[j] = byte(rand.Uint32())
			}
			if i%2 == 0 && len(junk) > 4 {
				copy(junk, "HFN1")
			}
			_, _ = conn.Write(junk)
			if i%200 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	attack.Go(func() { // a scan of other ports
		addr := w.address(t, holder, "eth0").String()
		for port := 1; port <= 3000 && time.Now().Before(end); port++ {
			err := w.lab.Do("c1", func() error {
				if conn, err := net.DialTimeout("tcp4", net.JoinHostPort(addr, strconv.Itoa(port)), 50*time.Millisecond); err == nil {
					t.Errorf("port %d is open", port)
					return conn.Close()
				}
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	attack.Wait()
	w.ready(t)
	p.untouched()
	if e := w.epoch(t, holder); e != epoch {
		t.Errorf("epoch %d became %d", epoch, e)
	}
	if again := worker(); again != pid {
		t.Errorf("the worker is %d, was %d", again, pid)
	}
	grown := resident(t, pid) - before
	t.Logf("memory of the worker: %d MiB, grown by %d MiB", before>>20, grown>>20)
	if grown > 32<<20 {
		t.Errorf("the worker has grown by %d MiB", grown>>20)
	}
	if n := len(w.log(t, holder)) - logged; n > 64<<10 {
		t.Errorf("the attack wrote %d bytes to the log", n)
	}
}
