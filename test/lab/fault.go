package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/vishvananda/netlink"
)

// Fault is something that was broken on purpose.
type Fault struct {
	// Name says what was done, for logs and tables.
	Name string
	// At is the boot time (ns) just before it was done.
	At int64

	once    sync.Once
	undo    func() error
	undoErr error
	dropped func() (int64, error)
	relayed RelayCount
}

// Undo mends the fault. Later calls do nothing and return the same error.
// Killed processes are started again only where the method that killed them
// says so.
func (f *Fault) Undo() error {
	f.once.Do(func() {
		if f.undo != nil {
			f.undoErr = f.undo()
		}
		if f.undoErr != nil {
			f.undoErr = fmt.Errorf("undo %s: %w", f.Name, f.undoErr)
		}
	})
	return f.undoErr
}

// Dropped returns how many frames a fault of the network has dropped so far;
// 0 for other faults and after Undo.
func (f *Fault) Dropped() (int64, error) {
	if f.dropped == nil {
		return 0, nil
	}
	return f.dropped()
}

// nftTable holds one base chain per fault, in the bridge family of the lan
// namespace. Its forward hook sees every copy of a frame with both its ports,
// and the passive capture, which taps a port before any hook, still sees what
// a member sent into a broken cable.
const nftTable = "bridge holdfast_lab"

const nftLimit = 10 * time.Second

func (l *Lab) setUpFaults() error {
	return l.nft("add table " + nftTable)
}

func (l *Lab) nft(script string) error {
	ctx, cancel := context.WithTimeout(context.Background(), nftLimit)
	defer cancel()
	out, err := l.runWith(ctx, Lan, []byte(script+"\n"), nil, "nft", "-f", "-")
	if err != nil {
		return err
	}
	if out.Code != 0 {
		return fmt.Errorf("load nftables rules: %s in:\n%s", strings.TrimSpace(out.Stderr), script)
	}
	return nil
}

// drop drops forwarded frames that match any of the nftables expressions.
func (l *Lab) drop(name string, matches ...string) (*Fault, error) {
	l.mu.Lock()
	l.faults++
	chain := fmt.Sprintf("fault%d", l.faults)
	l.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "table %s {\n chain %s {\n  type filter hook forward priority 0; policy accept;\n", nftTable, chain)
	for _, m := range matches {
		fmt.Fprintf(&b, "  %s counter drop\n", m)
	}
	b.WriteString(" }\n}")
	at := clock.Boottime()
	if err := l.nft(b.String()); err != nil {
		return nil, fmt.Errorf("break network (%s): %w", name, err)
	}
	l.logger.Info("fault", "name", name)
	f := &Fault{Name: name, At: at}
	var mu sync.Mutex
	gone := false
	f.dropped = func() (int64, error) {
		mu.Lock()
		defer mu.Unlock()
		if gone {
			return 0, nil
		}
		return l.chainPackets(chain)
	}
	f.undo = func() error {
		mu.Lock()
		defer mu.Unlock()
		gone = true
		l.logger.Info("fault undone", "name", name)
		return l.nft("delete chain " + nftTable + " " + chain)
	}
	return f, nil
}

// chainPackets sums the counters of a fault's rules.
func (l *Lab) chainPackets(chain string) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), nftLimit)
	defer cancel()
	args := append([]string{"-j", "list", "chain"}, strings.Fields(nftTable)...)
	out, err := l.Run(ctx, Lan, "nft", append(args, chain)...)
	if err != nil {
		return 0, err
	}
	var list struct {
		Nftables []struct {
			Rule *struct {
				Expr []struct {
					Counter *struct{ Packets int64 }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out.Stdout), &list); err != nil {
		return 0, fmt.Errorf("read nftables counters: %w: %s", err, out.Stderr)
	}
	var sum int64
	for _, x := range list.Nftables {
		if x.Rule == nil {
			continue
		}
		for _, e := range x.Rule.Expr {
			if e.Counter != nil {
				sum += e.Counter.Packets
			}
		}
	}
	return sum, nil
}

// set is the nftables set of the ports of some cables on the bridge: a relay,
// where there is one, has a device of its own there.
func set(ports []string) string {
	var all []string
	for _, p := range ports {
		all = append(all, strconv.Quote(p), strconv.Quote(bridgeEnd(p)))
	}
	return "{ " + strings.Join(all, ", ") + " }"
}

// Cut cuts cables silently: no frame passes, yet both ends see a live cable,
// as when a switch in between has died. where is "gw1" for every port of that
// node on the LAN, "gw1/eth1" or "gw1/peer0" for one port, "gw1/*" for all.
func (l *Lab) Cut(where string) (*Fault, error) {
	return l.dropAt("cut "+where, where, "iifname %s", "oifname %s")
}

// Mute is one-way loss: the node cannot be heard, but hears. where as in Cut.
func (l *Lab) Mute(where string) (*Fault, error) {
	return l.dropAt("mute "+where, where, "iifname %s")
}

// Deafen is one-way loss: the node cannot hear, but is heard. where as in Cut.
func (l *Lab) Deafen(where string) (*Fault, error) {
	return l.dropAt("deafen "+where, where, "oifname %s")
}

// Lose drops a random share of the frames to and from the node, each direction
// by itself. percent is 0 to 100, steps of 0.1. where as in Cut.
func (l *Lab) Lose(where string, percent float64) (*Fault, error) {
	if percent < 0 || percent > 100 {
		return nil, fmt.Errorf("lose frames of %s: %v percent is not 0 to 100", where, percent)
	}
	share := ""
	if permille := int(percent*10 + 0.5); permille < 1000 {
		share = fmt.Sprintf("numgen random mod 1000 < %d", permille)
	}
	return l.dropAt(fmt.Sprintf("lose %v%% at %s", percent, where), where, "iifname %s "+share, "oifname %s "+share)
}

// noteMatch matches UDP datagrams whose payload begins with the four bytes
// "HFN1" of a release or over note: the payload begins 64 bits into UDP.
const noteMatch = "meta l4proto udp @th,64,32 0x48464e31"

// DropNotes loses release and over notes that the node sends, and nothing
// else. where as in Cut.
func (l *Lab) DropNotes(where string) (*Fault, error) {
	return l.dropAt("drop notes of "+where, where, "iifname %s "+noteMatch)
}

// DropProtocol loses what a node sends and receives by "udp" or by "tcp", and
// nothing else. where as in Cut.
func (l *Lab) DropProtocol(where, protocol string) (*Fault, error) {
	if protocol != "udp" && protocol != "tcp" {
		return nil, fmt.Errorf("drop %q of %s: neither udp nor tcp", protocol, where)
	}
	match := " meta l4proto " + protocol
	return l.dropAt("drop "+protocol+" of "+where, where, "iifname %s"+match, "oifname %s"+match)
}

// DropBetween loses frames that go from one node to another, in that direction
// only. Both places as in Cut.
func (l *Lab) DropBetween(from, to string) (*Fault, error) {
	in, err1 := l.ports(from)
	out, err2 := l.ports(to)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return l.drop("drop "+from+" -> "+to, fmt.Sprintf("iifname %s oifname %s", set(in), set(out)))
}

// DropMatching drops forwarded frames that match a bridge-family nftables
// expression, such as `iifname "gw1" udp dport 7400`.
func (l *Lab) DropMatching(expression string) (*Fault, error) {
	return l.drop("drop "+expression, expression)
}

func (l *Lab) dropAt(name, where string, formats ...string) (*Fault, error) {
	ports, err := l.ports(where)
	if err != nil {
		return nil, err
	}
	matches := make([]string, len(formats))
	for i, f := range formats {
		matches[i] = fmt.Sprintf(f, set(ports))
	}
	return l.drop(name, matches...)
}

// LinkDown takes the bridge's end of the cables down, so that the node loses
// its carrier. Undo returns when the carrier is back. where as in Cut.
func (l *Lab) LinkDown(where string) (*Fault, error) {
	ports, err := l.ports(where)
	if err != nil {
		return nil, err
	}
	f := &Fault{Name: "link down " + where, At: clock.Boottime()}
	if err := l.setPorts(ports, false); err != nil {
		return nil, errors.Join(err, l.setPorts(ports, true))
	}
	l.logger.Info("fault", "name", f.Name)
	f.undo = func() error {
		if err := l.setPorts(ports, true); err != nil {
			return err
		}
		return l.waitPortsUp(ports)
	}
	return f, nil
}

// waitPortsUp waits until both ends of the cables may send: the kernel makes a
// device with a new carrier usable from a work queue.
func (l *Lab) waitPortsUp(ports []string) error {
	deadline := time.Now().Add(5 * time.Second)
	for _, n := range l.nodes {
		for _, c := range n.NICs {
			if !slices.Contains(ports, c.Port) {
				continue
			}
			for !operational(l.handles[n.Name], c.Name) || !operational(l.handles[Lan], c.Port) {
				if time.Now().After(deadline) {
					return fmt.Errorf("wait for carrier of %s/%s: none after 5 s", n.Name, c.Name)
				}
				time.Sleep(pollEvery)
			}
		}
	}
	return nil
}

func operational(h *netlink.Handle, name string) bool {
	link, err := h.LinkByName(name)
	return err == nil && link.Attrs().OperState == netlink.OperUp
}

func (l *Lab) setPorts(ports []string, up bool) error {
	h := l.handles[Lan]
	for _, p := range ports {
		link, err := h.LinkByName(p)
		if err != nil {
			return fmt.Errorf("find port %s: %w", p, err)
		}
		change := h.LinkSetDown
		if up {
			change = h.LinkSetUp
		}
		if err := change(link); err != nil {
			return fmt.Errorf("set port %s: %w", p, err)
		}
	}
	return nil
}
