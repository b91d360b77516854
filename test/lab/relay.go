package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Impairment is what a relay does to the frames of one direction.
type Impairment struct {
	// Delay is how long each frame waits, Jitter how much longer it may: the
	// wait is drawn evenly from Delay to Delay + Jitter. 0 to 10 s together.
	// Frames stay in order all the same.
	Delay, Jitter time.Duration
	// Lose, Duplicate and Reorder are shares of the frames, 0 to 100 percent,
	// drawn for each frame by itself. A frame out of order waits up to 20 ms
	// more, and those behind it do not wait for it. Of a duplicate the second
	// copy does the same.
	Lose, Duplicate, Reorder float64
}

// relayLimit bounds the wait of a frame.
const relayLimit = 10 * time.Second

func (i Impairment) check() error {
	if i.Delay < 0 || i.Jitter < 0 || i.Delay+i.Jitter > relayLimit {
		return fmt.Errorf("delay %v, jitter %v: not 0 to %v together", i.Delay, i.Jitter, relayLimit)
	}
	for _, p := range []float64{i.Lose, i.Duplicate, i.Reorder} {
		if !(p >= 0 && p <= 100) {
			return fmt.Errorf("%v percent is not 0 to 100", p)
		}
	}
	return nil
}

// RelayCount is what a relay did, in frames.
type RelayCount struct{ Relayed, Lost, Duplicated, Reordered int64 }

// Relayed returns what the relay of an Impair did; zero for other faults and
// before Undo.
func (f *Fault) Relayed() RelayCount { return f.relayed }

// Impair puts a relay into the cables of a node: a process between the end of
// the cable and the bridge, which does out to what the node sends and in to
// what it receives. Some frames are lost while the cable is moved over and,
// with all that still wait, when it is moved back. where as in Cut; one relay
// at a port at a time. Other faults of the network work beside it.
func (l *Lab) Impair(where string, out, in Impairment) (*Fault, error) {
	fail := func(err error) (*Fault, error) { return nil, fmt.Errorf("impair %s: %w", where, err) }
	if err := errors.Join(out.check(), in.check()); err != nil {
		return fail(err)
	}
	ports, err := l.ports(where)
	if err != nil {
		return fail(err)
	}
	r := &relay{lab: l}
	if r.ports, err = l.takeForRelay(ports); err != nil {
		return fail(err)
	}
	if err := r.start(out, in); err != nil {
		return fail(errors.Join(err, r.remove()))
	}
	f := &Fault{Name: fmt.Sprintf("impair %s: out %+v, in %+v", where, out, in), At: Now()}
	f.undo = func() error {
		count, err := r.stop()
		f.relayed = count
		l.logger.Info("fault undone", "name", f.Name, "frames", count)
		return err
	}
	if err := r.insert(); err != nil {
		return fail(errors.Join(err, f.Undo()))
	}
	l.logger.Info("fault", "name", f.Name)
	return f, nil
}

// relay is the relay of some ports. Each has a spare pair of devices: one end
// takes the place of the port on the bridge, the other is the relay's.
type relay struct {
	lab           *Lab
	ports         []string
	proc          *Proc
	stdin, stdout *os.File
	news          *json.Decoder
}

// takeForRelay marks ports that have no relay, until remove.
func (l *Lab) takeForRelay(ports []string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range ports {
		if l.relays[p] {
			return nil, fmt.Errorf("there is a relay at %s already", p)
		}
	}
	for _, p := range ports {
		l.relays[p] = true
	}
	return ports, nil
}

func bridgeEnd(port string) string { return "b-" + port }
func relayEnd(port string) string  { return "r-" + port }

// start makes the devices and a process that relays between them and the
// cables, which are still plugged into the bridge.
func (r *relay) start(out, in Impairment) error {
	var files []*os.File
	defer func() { closeAll(files) }()
	h := r.lab.handles[Lan]
	for _, port := range r.ports {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeEnd(port)
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: relayEnd(port)}); err != nil {
			return fmt.Errorf("add devices of the relay: %w", err)
		}
		if err := r.lab.setPorts([]string{bridgeEnd(port), relayEnd(port)}, true); err != nil {
			return err
		}
		for _, name := range []string{port, relayEnd(port)} {
			file, err := r.lab.relaySocket(name)
			if err != nil {
				return err
			}
			files = append(files, file)
		}
	}
	r.lab.mu.Lock()
	r.lab.faults++
	orders := relayOrders{Wires: len(r.ports), Out: out, In: in, Seed: uint64(r.lab.faults)}
	r.lab.mu.Unlock()
	var err error
	if r.proc, r.stdin, r.stdout, err = r.lab.startSelf(relayMark, orders, files); err != nil {
		return err
	}
	r.news = json.NewDecoder(bufio.NewReader(r.stdout))
	if err := r.stdout.SetReadDeadline(time.Now().Add(relayLimit)); err != nil {
		return fmt.Errorf("limit wait for the relay: %w", err)
	}
	var ready RelayCount
	if err := r.news.Decode(&ready); err != nil {
		return fmt.Errorf("wait for the relay: %w", err)
	}
	return nil
}

// insert moves the cables from the bridge to the relay, which then has the
// only way between the two.
func (r *relay) insert() error {
	h := r.lab.handles[Lan]
	for _, port := range r.ports {
		link, err := h.LinkByName(port)
		if err == nil {
			err = h.LinkSetNoMaster(link)
		}
		if err == nil {
			err = plug(h, bridgeEnd(port), r.lab.bridgeOf(port))
		}
		if err != nil {
			return fmt.Errorf("move the cable of %s: %w", port, err)
		}
	}
	return nil
}

// stop moves the cables back and ends the relay.
func (r *relay) stop() (RelayCount, error) {
	h := r.lab.handles[Lan]
	var all error
	for _, port := range r.ports {
		// The port may be down by another fault, and stays so.
		link, err := h.LinkByName(port)
		var br netlink.Link
		if err == nil {
			br, err = h.LinkByName(r.lab.bridgeOf(port))
		}
		if other, gone := h.LinkByName(bridgeEnd(port)); err == nil && gone == nil {
			err = errors.Join(h.LinkSetNoMaster(other), h.LinkSetMaster(link, br))
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("move the cable of %s back: %w", port, err))
		}
	}
	var count RelayCount
	r.stdin.Close()
	err := r.stdout.SetReadDeadline(time.Now().Add(relayLimit))
	if err == nil {
		err = r.news.Decode(&count)
	}
	if err != nil {
		all = errors.Join(all, fmt.Errorf("end relay: %w", err))
	}
	return count, errors.Join(all, r.remove())
}

// remove ends the process and removes the devices, as far as there are any.
func (r *relay) remove() error {
	if r.proc != nil {
		r.stdin.Close()
		r.stdout.Close()
		_ = r.proc.Signal(unix.SIGKILL) // ended already is as good
		<-r.proc.Done()
	}
	var all error
	for _, port := range r.ports {
		link, err := r.lab.handles[Lan].LinkByName(bridgeEnd(port))
		if err == nil {
			all = errors.Join(all, r.lab.handles[Lan].LinkDel(link))
		}
	}
	r.lab.mu.Lock()
	defer r.lab.mu.Unlock()
	for _, port := range r.ports {
		delete(r.lab.relays, port)
	}
	return all
}

func (l *Lab) bridgeOf(port string) string {
	for _, n := range l.nodes {
		for _, c := range n.NICs {
			if c.Port == port && c.Cable {
				return cableBridge
			}
		}
	}
	return lanBridge
}

// relaySocket opens a packet socket at a device of the lan namespace that
// reads and writes whole frames as the kernel has them: each begins with a
// header that says which sums are still to be made and where to cut a frame
// that is larger than the wire takes.
func (l *Lab) relaySocket(device string) (*os.File, error) {
	var file *os.File
	err := l.Do(Lan, func() error {
		nic, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "relay:"+device)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, captureBuffer),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: nic.Index}),
		)
	})
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, fmt.Errorf("open relay's socket at %s: %w", device, err)
	}
	return file, nil
}
