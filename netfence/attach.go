package netfence

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// AttachAll puts both programs first at every interface but loopback, in place
// of those of an earlier guard. When all stand, what an earlier layout or mode
// left behind is dropped. It may be called again at any time to repair.
// ErrVIPsFirst: SetVIPs has not been called.
func (f *Fence) AttachAll() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ns.do(f.attachAll)
}

func (f *Fence) attachAll() error {
	if !f.vipsSet {
		return ErrVIPsFirst
	}
	links, err := f.ns.links()
	if err != nil {
		return err
	}
	var errs []error
	present := map[int]bool{}
	for _, l := range links {
		present[l.Attrs().Index] = true
		errs = append(errs, f.attachLink(l))
	}
	for ifindex := range f.attached {
		if !present[ifindex] {
			errs = append(errs, f.forgetLink(ifindex))
		}
	}
	errs = append(errs, f.syncOwnMACs())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.dropEarlier(links)
}

// attachLink attaches both programs to one interface and notes its MAC. An
// interface that vanished meanwhile is no error.
func (f *Fence) attachLink(l netlink.Link) error {
	a := l.Attrs()
	for _, d := range directions {
		if err := f.hook.attach(l, d, f.program(l, d)); err != nil {
			if f.ns.isGone(a.Index) {
				return f.forgetLink(a.Index)
			}
			return fmt.Errorf("attach gate to %s %s: %w", a.Name, d, err)
		}
	}
	if _, ok := f.attached[a.Index]; !ok {
		f.log.Info("gate attached", "interface", a.Name, "ifindex", a.Index, "mode", f.mode)
	}
	f.attached[a.Index] = a.Name
	delete(f.macs, a.Index)
	if len(a.HardwareAddr) == 6 {
		f.macs[a.Index] = packMAC([6]byte(a.HardwareAddr))
	}
	return nil
}

func (f *Fence) forgetLink(ifindex int) error {
	delete(f.attached, ifindex)
	delete(f.macs, ifindex)
	return f.hook.forget(ifindex)
}

// syncOwnMACs tells the programs which announcements are our own.
func (f *Fence) syncOwnMACs() error {
	set := make(map[uint64]struct{}, len(f.macs))
	for _, m := range f.macs {
		set[m] = struct{}{}
	}
	return f.t.setOwnMACs(set)
}

// dropEarlier removes programs that ours have replaced: links pinned in another
// layout or for interfaces that are gone, and those of the other mode.
func (f *Fence) dropEarlier(links []netlink.Link) error {
	var errs []error
	if f.mode == ModeTCX {
		filters := clsactHook{ns: f.ns}
		for _, l := range links {
			for _, d := range directions {
				errs = append(errs, filters.detach(l, d))
			}
		}
	}
	if f.pins == nil {
		return errors.Join(errs...)
	}
	errs = append(errs, dropLinks(filepath.Join(f.dir, linkDir), f.holdsPin))
	old, err := f.pins.retired(f.dir)
	errs = append(errs, err)
	for _, d := range old {
		errs = append(errs, removeRetired(d))
	}
	return errors.Join(errs...)
}

// holdsPin tells whether a pinned link of this name is one of ours.
func (f *Fence) holdsPin(name string) bool {
	if f.mode != ModeTCX {
		return false
	}
	for ifindex := range f.attached {
		for _, d := range directions {
			if name == (hookKey{ifindex, d}).String() {
				return true
			}
		}
	}
	return false
}

// detachAll removes our programs of either mode from every interface.
func (f *Fence) detachAll() error {
	links, err := f.ns.links()
	errs := []error{err}
	filters := clsactHook{ns: f.ns}
	for _, l := range links {
		for _, d := range directions {
			errs = append(errs, f.hook.detach(l, d), filters.detach(l, d))
		}
	}
	clear(f.attached)
	return errors.Join(errs...)
}

// Verify checks that the gate stands first at every interface, and attaches to
// interfaces that have appeared since. *DetachedError lists where it does not
// stand; AttachAll repairs what can be repaired. It costs one listing of
// interfaces and two queries each, and may run every second.
func (f *Fence) Verify() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ns.do(f.verify)
}

func (f *Fence) verify() error {
	links, err := f.ns.links()
	if err != nil {
		return err
	}
	var hooks []string
	added := false
	for _, l := range links {
		a := l.Attrs()
		if _, ok := f.attached[a.Index]; !ok && f.vipsSet {
			added = true
			if err := f.attachLink(l); err != nil {
				hooks = append(hooks, err.Error())
				continue
			}
		}
		for _, d := range directions {
			err := f.hook.verify(l, d, f.program(l, d))
			if err != nil && !f.ns.isGone(a.Index) {
				hooks = append(hooks, fmt.Sprintf("%s %s: %v", a.Name, d, err))
			}
		}
	}
	if added {
		if err := f.syncOwnMACs(); err != nil {
			return err
		}
	}
	if len(hooks) > 0 {
		return &DetachedError{hooks}
	}
	return nil
}
