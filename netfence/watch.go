package netfence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// resubscribeDelay is the pause after a lost subscription, so that a kernel
// that is short of memory is not asked in a tight loop.
const resubscribeDelay = 100 * time.Millisecond

// Watch attaches the programs to interfaces as they appear, until ctx ends;
// then it returns nil. A lost subscription is opened again, and what it missed
// is found by listing all interfaces. ErrVIPsFirst: SetVIPs has not been called.
func (f *Fence) Watch(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrVIPsFirst) {
			return err
		}
		f.log.Warn("interface subscription ended; opening it again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(resubscribeDelay):
		}
	}
}

// follow handles the updates of one subscription.
func (f *Fence) follow(ctx context.Context) error {
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	var lost error // written before updates is closed
	err := f.ns.do(func() error {
		return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
			ErrorCallback: func(err error) { lost = err },
		})
	})
	if err != nil {
		return explain("subscribe to interfaces", err)
	}
	defer func() {
		close(done)
		for range updates { // until the library's goroutine has ended
		}
	}()
	if err := f.AttachAll(); err != nil { // what appeared before the subscription
		if errors.Is(err, ErrVIPsFirst) {
			return err
		}
		f.log.Error("gate is not in place everywhere", "err", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("read interface updates: %w", errors.Join(lost, errors.New("subscription closed")))
			}
			if err := f.updated(u); err != nil {
				f.log.Error("gate is not in place", "interface", u.Link.Attrs().Name, "err", err)
			}
		}
	}
}

// updated brings one interface up to date.
func (f *Fence) updated(u netlink.LinkUpdate) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ns.do(func() error {
		l := u.Link
		if isLoopback(l) || u.IfInfomsg.Family == unix.AF_BRIDGE {
			return nil // the second tells of a bridge's port, not of an interface
		}
		var err error
		if u.Header.Type == unix.RTM_DELLINK {
			if !f.ns.isGone(l.Attrs().Index) {
				return nil
			}
			err = f.forgetLink(l.Attrs().Index)
		} else {
			err = f.attachLink(l)
		}
		return errors.Join(err, f.syncOwnMACs())
	})
}
