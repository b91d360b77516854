package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/vip"
)

// GuardOptions of the guard process.
type GuardOptions struct {
	Config *config.Config
	// Source is the file that Config came from.
	Source string
	// Command runs this program again; the arguments of a worker are added.
	Command []string
	Reload  <-chan struct{}
	Logger  *slog.Logger
}

// interfaceWait is how long a start waits for an interface that a VIP needs:
// long enough for a slow driver, short enough to tell a typo.
const interfaceWait = 5 * time.Second

// HintError is a failure that a user can mend, and how.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }

// Unwrap returns the failure itself.
func (e *HintError) Unwrap() error { return e.Err }

// RunGuard is the guard process: `holdfast run`. It returns nil after a
// planned stop, and then nothing of it is left on the host.
func RunGuard(ctx context.Context, o GuardOptions) (err error) {
	if err := checkKey(o.Config); err != nil {
		return err
	}
	for dir, mode := range map[string]os.FileMode{o.Config.Node.RuntimeDir: 0o755, o.Config.Node.DataDir: 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return &HintError{fmt.Errorf("make directory: %w", err), "run as root, or name another directory in [node]"}
		}
	}
	// Before anything that another guard may be using is touched.
	lock, err := guard.LockRuntime(o.Config.Node.RuntimeDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	var own []netip.Addr
	for _, a := range o.Config.Self().Addresses {
		own = append(own, a.Addr())
	}
	sockets, err := transport.OpenNoteSockets(own)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sockets.Close()) }()
	g := guard.Options{
		RuntimeDir: o.Config.Node.RuntimeDir,
		SendNotes: func(targets []netip.AddrPort, notes [][]byte) error {
			_, err := sockets.Send(targets, notes)
			return err
		},
		DataDirFree: func() error {
			return storage.CheckFree(vfs.OS, o.Config.Node.DataDir)
		},
		Reload:  o.Reload,
		OnReady: notifyReady,
		Logger:  o.Logger,
	}
	good, err := keepGood(o.Config, o.Source)
	if err != nil {
		return err
	}
	g.Command = append(append([]string(nil), o.Command...), "worker", "--config", good, "--source", o.Source)
	if o.Config.Self().Role == config.Witness {
		g.Gate, g.RemoveAddresses = noGate{}, func([]guard.Address) error { return nil }
		return guard.Run(ctx, g)
	}
	return runGateway(ctx, o, g)
}

// checkKey refuses a key that the member list does not name: no member would
// talk to this node, and a worker could only fail again and again.
func checkKey(c *config.Config) error {
	key, err := transport.LoadKey(c.Node.KeyFile)
	if err != nil {
		return err
	}
	self := c.Self()
	public, listed := key.Public().(ed25519.PublicKey), ed25519.PublicKey(self.PublicKey[:])
	if !listed.Equal(public) {
		return &transport.KeyFileError{
			Path: c.Node.KeyFile,
			Err: fmt.Errorf("its public_key is %s, the [[member]] of %s has %s",
				transport.EncodePublicKey(public), c.Node.Name, transport.EncodePublicKey(listed)),
			Hint: "name the key file of " + c.Node.Name + ", or change its public_key on every member",
		}
	}
	return nil
}

// runGateway guards a node that may hold addresses: the kernel gate stands
// before the first of them can appear.
func runGateway(ctx context.Context, o GuardOptions, g guard.Options) (err error) {
	vips, err := vip.New()
	if err != nil {
		return &HintError{err, "run as root, or grant CAP_NET_ADMIN and CAP_NET_RAW"}
	}
	defer func() { err = errors.Join(err, vips.Close()) }()
	if err := waitInterfaces(ctx, o, vips); err != nil {
		return err
	}
	fence, err := netfence.Load(netfence.Options{PinDir: filepath.Join(o.Config.Node.RuntimeDir, "bpf"), Logger: o.Logger})
	if err != nil {
		return err
	}
	// Addresses that an earlier run may have set stay guarded until they are
	// off the host, whatever the file says by now.
	if g.Addresses, err = addressesToClear(o.Config, fence); err != nil {
		return errors.Join(err, fence.Close())
	}
	strays := func() error { return removeAddresses(vips, g.Addresses, o.Logger) }
	if err := attach(fence, g.Addresses); err != nil {
		if clear := strays(); clear != nil {
			return errors.Join(err, clear, fence.Close())
		}
		return errors.Join(err, fence.Detach())
	}
	watch, stop := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- fence.Watch(watch) }()

	g.Gate = fence
	g.Command = append(g.Command, "--gate-mode", fence.Mode())
	g.RemoveAddresses = func(list []guard.Address) error {
		return removeAddresses(vips, list, o.Logger)
	}
	err = guard.Run(ctx, g)
	stop()
	if werr := <-watched; werr != nil {
		o.Logger.Warn("watching for new interfaces ended", "error", werr)
	}
	if err == nil {
		// Nothing may be left behind: what follows takes the gate away.
		var known []guard.Address
		if known, err = guard.KnownAddresses(o.Config.Node.RuntimeDir); err == nil {
			err = g.RemoveAddresses(append(known, g.Addresses...))
		}
	}
	if err != nil {
		// The gate stays attached and closed: whatever is wrong, it cannot be
		// ours to open.
		return errors.Join(err, fence.Close())
	}
	// A planned stop: the addresses are gone, so nothing needs the gate.
	return errors.Join(fence.Detach(), guard.ForgetAddresses(o.Config.Node.RuntimeDir))
}

// addressesToClear are the addresses of the file, of the workers before, and
// of the gate that an earlier guard left.
func addressesToClear(c *config.Config, fence *netfence.Fence) ([]guard.Address, error) {
	list, err := guard.KnownAddresses(c.Node.RuntimeDir)
	if err != nil {
		return nil, err
	}
	for _, v := range c.VIPs {
		list = append(list, guard.Address{Prefix: v.Address, Interface: v.Interface})
	}
	adopted, err := fence.VIPs()
	if err != nil {
		return nil, err
	}
	for _, v := range adopted {
		list = append(list, guard.Address{Prefix: netip.PrefixFrom(v.Addr, v.Addr.BitLen())})
	}
	return list, nil
}

// attach guards the addresses on every interface, closed. All begin in group
// 0: nothing is open in any, and the worker names the groups.
func attach(fence *netfence.Fence, list []guard.Address) error {
	table := map[netip.Addr]bool{}
	var vips []netfence.VIP
	for _, a := range list {
		if addr := a.Prefix.Addr(); !table[addr] {
			table[addr] = true
			vips = append(vips, netfence.VIP{Addr: addr})
		}
	}
	if err := fence.SetVIPs(vips); err != nil {
		return err
	}
	return fence.AttachAll()
}

// waitInterfaces waits a little for the interfaces of the file. One that goes
// away later is waited for without limit, by the worker.
func waitInterfaces(ctx context.Context, o GuardOptions, vips *vip.Manager) error {
	deadline := time.Now().Add(interfaceWait)
	said := false
	for {
		missing, err := missingInterface(o.Config, vips)
		if err == nil {
			return nil
		}
		if !errors.Is(err, vip.ErrNoInterface) || time.Now().After(deadline) {
			return &HintError{err, "ip -br link shows the interfaces there are; name one of them in [[vip]]"}
		}
		if !said {
			said = true
			o.Logger.Warn("waiting for interface", "interface", missing, "up_to", interfaceWait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func missingInterface(c *config.Config, vips *vip.Manager) (string, error) {
	for _, v := range c.VIPs {
		if _, err := vips.Interface(v.Interface); err != nil {
			return v.Interface, err
		}
	}
	return "", nil
}

// removeAddresses takes the listed addresses off every interface: a
// configuration that names another interface now must not leave one behind.
func removeAddresses(vips *vip.Manager, list []guard.Address, log *slog.Logger) error {
	var addrs []netip.Addr
	for _, a := range list {
		addrs = append(addrs, a.Prefix.Addr())
	}
	strays, err := vips.RemoveStrays(addrs)
	for _, s := range strays {
		log.Info("address removed", "address", s.Addr, "interface", s.Interface)
	}
	return err
}

func notifyReady() {
	// Without systemd there is nobody to tell, and no error.
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
}

// noGate stands for the gate on a witness, which never holds an address and
// needs none.
type noGate struct{}

func (noGate) SetIncarnation(uint64) error    { return nil }
func (noGate) CloseAll() error                { return nil }
func (noGate) GateFiles() ([]*os.File, error) { return nil, nil }
func (noGate) Verify() error                  { return nil }
func (noGate) AttachAll() error               { return nil }
