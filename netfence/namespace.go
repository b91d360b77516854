package netfence

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is the network namespace that a Fence was loaded in. A link is
// made in the namespace of the calling thread, so every call that attaches
// runs through do.
type namespace struct {
	handle netns.NsHandle
	nl     *netlink.Handle
}

func currentNamespace() (*namespace, error) {
	h, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), h.Close())
	}
	return &namespace{h, nl}, nil
}

func (n *namespace) close() error {
	n.nl.Close()
	return n.handle.Close()
}

// do runs f on a thread of the namespace and waits for it.
func (n *namespace) do(f func() error) error {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err == nil && here.Equal(n.handle) {
		defer runtime.UnlockOSThread()
		defer here.Close()
		return f()
	}
	runtime.UnlockOSThread()
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	_ = here.Close() // read only

	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(n.handle); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// links lists all interfaces but loopback.
func (n *namespace) links() ([]netlink.Link, error) {
	var all []netlink.Link
	err := retryDump(func() (err error) {
		all, err = n.nl.LinkList()
		return err
	})
	if err != nil {
		return nil, explain("list interfaces", err)
	}
	var out []netlink.Link
	for _, l := range all {
		if !isLoopback(l) {
			out = append(out, l)
		}
	}
	return out, nil
}

// retryDump repeats a netlink dump that a change in between made inconsistent.
func retryDump(dump func() error) error {
	var err error
	for range 10 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}
