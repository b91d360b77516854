package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namePrefix starts every namespace and directory name of a lab.
const namePrefix = "hf-"

// Options say what a lab consists of.
type Options struct {
	// Gateways gw1 … that can hold the floating address.
	Gateways int
	// Witnesses w1 … that only vote.
	Witnesses int
	// Clients c1 … of the LAN, from which probes measure.
	Clients int
	// Cable adds a second cable between the gateways (peer0), on a bridge
	// of its own.
	Cable bool
	// SecondNIC names members that get a second interface (eth1) on the LAN.
	SecondNIC []string
	// Dir is where the lab makes its directory; the system's temporary
	// directory when empty. Control sockets lie in it, so the path must be
	// short (a socket's path has at most 107 bytes).
	Dir string
	// Logger gets what the lab does; nil means nothing is logged.
	Logger *slog.Logger
}

// Lab is a network of namespaces. Its methods may be called from any
// goroutine, but faults and cluster steps are meant for one at a time.
type Lab struct {
	// ID is the random part of the names of the namespaces.
	ID string
	// Dir has everything that the lab writes.
	Dir string

	options Options
	logger  *slog.Logger
	nodes   []*Node
	spaces  map[string]*namespace
	handles map[string]*netlink.Handle
	lock    *os.File
	spawn   *spawner
	waits   sync.WaitGroup // goroutines that reap processes

	mu       sync.Mutex
	probes   map[*Probe]bool
	relays   map[string]bool // ports that have one
	faults   int             // numbers the nftables chains
	disks    []*Fault        // what Close undoes before it ends processes
	keep     bool
	closed   sync.Once
	closeErr error
}

// ErrNotRoot means that the process may not make network namespaces.
var ErrNotRoot = errors.New("network namespaces need root")

// New builds a lab. On an error nothing is left behind. The caller must Close
// the lab, best by defer: that also runs after a panic.
func New(o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	nodes, err := plan(o)
	if err != nil {
		return nil, err
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if n, err := Sweep(); err != nil {
		logger.Warn("sweep dead labs", "error", err)
	} else if n > 0 {
		logger.Info("swept dead labs", "labs", n)
	}
	l := &Lab{
		options: o, logger: logger, nodes: nodes,
		spaces: map[string]*namespace{}, handles: map[string]*netlink.Handle{},
		probes: map[*Probe]bool{}, relays: map[string]bool{},
	}
	if err := l.claim(); err != nil {
		return nil, err
	}
	l.spawn = newSpawner()
	watchSignals(l)
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab: %w", err), l.Close())
	}
	logger.Info("lab is up", "id", l.ID, "dir", l.Dir)
	return l, nil
}

// claim draws an id, registers it and makes the directory.
func (l *Lab) claim() error {
	parent := l.options.Dir
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return fmt.Errorf("find directory of the lab: %w", err)
	}
	var raw [3]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return fmt.Errorf("draw lab id: %w", err)
	}
	l.ID = hex.EncodeToString(raw[:])
	l.Dir = filepath.Join(parent, namePrefix+l.ID)
	l.lock, err = register(l.ID, registration{PID: os.Getpid(), Prefix: namePrefix + l.ID + "-", Dir: l.Dir})
	if err != nil {
		return err
	}
	if err := os.Mkdir(l.Dir, 0o700); err != nil {
		return errors.Join(fmt.Errorf("make directory of the lab: %w", err), l.release())
	}
	return nil
}

// release gives the registration up.
func (l *Lab) release() error {
	return errors.Join(os.Remove(filepath.Join(registryDir, l.ID)), l.lock.Close())
}

func (l *Lab) build() error {
	if err := l.addNamespace(Lan); err != nil {
		return err
	}
	if err := inside(l.spaces[Lan].file, setUpLan); err != nil {
		return err
	}
	if err := l.buildLan(); err != nil {
		return err
	}
	for _, n := range l.nodes {
		if err := l.addNamespace(n.Name); err != nil {
			return err
		}
		if err := l.buildNode(n); err != nil {
			return err
		}
	}
	if err := l.waitPortsUp(l.allPorts()); err != nil {
		return err
	}
	return l.setUpFaults()
}

func (l *Lab) addNamespace(node string) error {
	ns, err := newNamespace(namePrefix + l.ID + "-" + node)
	if err != nil {
		return err
	}
	l.spaces[node] = ns
	h, err := handleAt(ns)
	if err != nil {
		return err
	}
	l.handles[node] = h
	if err := inside(ns.file, func() error { return setUpNamespace(h) }); err != nil {
		return fmt.Errorf("set up namespace of %s: %w", node, err)
	}
	return nil
}

// Close ends every process of the lab and removes its namespaces, mounts and
// files. It may be called more than once.
func (l *Lab) Close() error {
	err := l.close()
	unwatchSignals(l)
	return err
}

func (l *Lab) close() error {
	l.closed.Do(func() { l.closeErr = l.tearDown() })
	return l.closeErr
}

func (l *Lab) tearDown() error {
	l.mu.Lock()
	var probes []*Probe
	for p := range l.probes {
		probes = append(probes, p)
	}
	l.mu.Unlock()
	for _, p := range probes {
		p.abort()
	}
	inodes := map[uint64]bool{}
	for _, ns := range l.spaces {
		inodes[ns.inode] = true
	}
	all := errors.Join(l.freeDisks(), killIn(inodes, 10*time.Second))
	l.waits.Wait()
	l.spawn.stop()
	all = errors.Join(all, unmountUnder(l.Dir))
	for _, h := range l.handles {
		h.Close()
	}
	for _, ns := range l.spaces {
		ns.file.Close()
		all = errors.Join(all, removeNamespace(ns.name))
	}
	if l.kept() {
		l.logger.Info("lab directory is kept", "dir", l.Dir)
	} else {
		all = errors.Join(all, os.RemoveAll(l.Dir))
	}
	return errors.Join(all, l.release())
}

// freeDisks ends faults that would keep processes from ending.
func (l *Lab) freeDisks() error {
	l.mu.Lock()
	faults := l.disks
	l.mu.Unlock()
	var all error
	for _, f := range faults {
		all = errors.Join(all, f.Undo())
	}
	thawUnder(l.Dir)
	return all
}

// Keep makes Close leave the lab's directory, with its logs, behind.
func (l *Lab) Keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep = true
}

func (l *Lab) kept() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keep
}

// Nodes returns all nodes: gateways, witnesses, clients.
func (l *Lab) Nodes() []*Node { return l.nodes }

// Members returns the gateways and witnesses.
func (l *Lab) Members() []*Node {
	var m []*Node
	for _, n := range l.nodes {
		if n.Role != Client {
			m = append(m, n)
		}
	}
	return m
}

// Node returns the node of that name.
func (l *Lab) Node(name string) (*Node, error) {
	for _, n := range l.nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("find node: the lab has no %q", name)
}

func (l *Lab) namespace(node string) (*namespace, error) {
	ns := l.spaces[node]
	if ns == nil {
		return nil, fmt.Errorf("find namespace: the lab has no node %q", node)
	}
	return ns, nil
}

// Namespace returns the name of a node's namespace, as ip-netns(8) knows it.
func (l *Lab) Namespace(node string) string { return namePrefix + l.ID + "-" + node }

// Netlink returns a handle into a node's namespace. It belongs to the lab.
func (l *Lab) Netlink(node string) (*netlink.Handle, error) {
	if _, err := l.namespace(node); err != nil {
		return nil, err
	}
	return l.handles[node], nil
}

// Do runs fn on a thread inside a node's namespace: sockets that it makes and
// sysctls that it writes are the node's. fn must not start goroutines that
// need the namespace.
func (l *Lab) Do(node string, fn func() error) error {
	ns, err := l.namespace(node)
	if err != nil {
		return err
	}
	return inside(ns.file, fn)
}

// AddAddress adds an address to an interface of a node, as a stranger or a
// careless administrator would.
func (l *Lab) AddAddress(node, nic string, p netip.Prefix) error {
	return l.onLink(node, nic, func(h *netlink.Handle, link netlink.Link) error {
		return h.AddrReplace(link, address(p))
	})
}

// DelAddress removes an address from an interface of a node.
func (l *Lab) DelAddress(node, nic string, p netip.Prefix) error {
	return l.onLink(node, nic, func(h *netlink.Handle, link netlink.Link) error {
		return h.AddrDel(link, address(p))
	})
}

// HasAddress reports whether any interface of a node has the address.
func (l *Lab) HasAddress(node string, a netip.Addr) (bool, error) {
	found := false
	err := l.eachAddress(node, a, func(netlink.Link, *netlink.Addr) error {
		found = true
		return nil
	})
	return found, err
}

// removeAddress removes an address from every interface of a node, whatever
// its prefix length there. Somebody else may remove it at the same time.
func (l *Lab) removeAddress(node string, a netip.Addr) error {
	return l.eachAddress(node, a, func(link netlink.Link, addr *netlink.Addr) error {
		err := l.handles[node].AddrDel(link, addr)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil
		}
		return err
	})
}

// eachAddress calls fn for every place where a node has the address.
func (l *Lab) eachAddress(node string, a netip.Addr, fn func(netlink.Link, *netlink.Addr) error) error {
	h, err := l.Netlink(node)
	if err != nil {
		return err
	}
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links of %s: %w", node, err)
	}
	for _, link := range links {
		addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", node, err)
		}
		for _, x := range addrs {
			if ip, ok := netip.AddrFromSlice(x.IP); !ok || ip.Unmap() != a {
				continue
			}
			if err := fn(link, &x); err != nil {
				return fmt.Errorf("address %v on %s/%s: %w", a, node, link.Attrs().Name, err)
			}
		}
	}
	return nil
}

func (l *Lab) onLink(node, nic string, fn func(*netlink.Handle, netlink.Link) error) error {
	h, err := l.Netlink(node)
	if err != nil {
		return err
	}
	link, err := h.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("find %s/%s: %w", node, nic, err)
	}
	if err := fn(h, link); err != nil {
		return fmt.Errorf("change address of %s/%s: %w", node, nic, err)
	}
	return nil
}

// Carrier reports whether an interface of a node sees a live cable.
func (l *Lab) Carrier(node, nic string) (bool, error) {
	h, err := l.Netlink(node)
	if err != nil {
		return false, err
	}
	link, err := h.LinkByName(nic)
	if err != nil {
		return false, fmt.Errorf("find %s/%s: %w", node, nic, err)
	}
	return link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0, nil
}

// TB is the part of testing.TB that Attach needs.
type TB interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Attach closes the lab when the test ends. When the test has failed, the ends
// of the members' logs are printed and the lab's directory is kept.
func (l *Lab) Attach(t TB) {
	t.Helper()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			l.Keep()
			t.Logf("lab %s: files kept in %s\n%s", l.ID, l.Dir, l.Logs(80))
		}
		if err := l.Close(); err != nil {
			t.Errorf("close lab %s: %v", l.ID, err)
		}
	})
}
