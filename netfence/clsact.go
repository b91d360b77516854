package netfence

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	filterName     = "holdfast_gate" // prefix; how a guard knows the filters of one before it
	filterPriority = 1               // the first of all
	filterHandle   = 1
)

// clsactHook attaches by direct-action filters of a clsact qdisc. They hold
// their program, and the program its maps, without any process or pin.
type clsactHook struct{ ns *namespace }

func parent(d direction) uint32 {
	if d == ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

func clsact(ifindex int) *netlink.GenericQdisc {
	return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// attach replaces a filter of ours in place: at every instant there is one.
func (h *clsactHook) attach(l netlink.Link, d direction, prog *ebpf.Program) error {
	index := l.Attrs().Index
	if h.verify(l, d, prog) == nil {
		return nil
	}
	if err := h.ns.nl.QdiscAdd(clsact(index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return explain("add clsact qdisc", err)
	}
	err := h.ns.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent(d), Handle: filterHandle,
			Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: filterName + "_" + d.String(), DirectAction: true,
	})
	if err != nil {
		return &HintError{"add gate filter", fmt.Sprintf(
			"the interface must have no ingress qdisc and no filter of another kind at priority %d: tc filter show dev %s %s",
			filterPriority, l.Attrs().Name, d), explain("replace filter", err)}
	}
	return nil
}

func (h *clsactHook) filters(l netlink.Link, d direction) ([]netlink.Filter, error) {
	var out []netlink.Filter
	err := retryDump(func() (err error) {
		out, err = h.ns.nl.FilterList(l, parent(d))
		return err
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // no clsact there
	}
	return out, explain("list filters", err)
}

func (h *clsactHook) verify(l netlink.Link, d direction, prog *ebpf.Program) error {
	want, err := programID(prog)
	if err != nil {
		return err
	}
	filters, err := h.filters(l, d)
	if err != nil {
		return err
	}
	at := -1
	for i, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Id == int(want) && b.DirectAction {
			at = i
		}
	}
	if at < 0 {
		return errors.New("not attached")
	}
	if at > 0 {
		return fmt.Errorf("filter %s stands in front", filters[0].Type())
	}
	// TCX programs run before the qdisc; kernels without them return an error.
	res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: tcxType(d)})
	if err == nil && len(res.Programs) > 0 {
		return fmt.Errorf("tcx program %d stands in front", res.Programs[0].ID)
	}
	return nil
}

// detach removes filters of our name, and the qdisc when nobody else uses it.
func (h *clsactHook) detach(l netlink.Link, d direction) error {
	filters, err := h.filters(l, d)
	if err != nil {
		return err
	}
	found := false
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if !ok || !strings.HasPrefix(b.Name, filterName) {
			continue
		}
		found = true
		if err := h.ns.nl.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return explain("delete gate filter", err)
		}
	}
	if !found {
		return nil
	}
	return h.dropQdisc(l)
}

func (h *clsactHook) dropQdisc(l netlink.Link) error {
	for _, d := range directions {
		filters, err := h.filters(l, d)
		if err != nil || len(filters) > 0 {
			return err
		}
	}
	err := h.ns.nl.QdiscDel(clsact(l.Attrs().Index))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return explain("delete clsact qdisc", err)
	}
	return nil
}

func (h *clsactHook) forget(int) error { return nil } // filters go with the interface
func (h *clsactHook) close() error     { return nil }
