package netfence

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/bpf"
)

// Limits of the lists; the kernel tables of bpf/maps.h hold two of each, an old
// and a new.
const (
	// MaxGroups is one more than the highest group id that can have a gate.
	MaxGroups = 1024
	// MaxVIPs is the greatest number of VIPs of all groups together.
	MaxVIPs = 1024
	// MaxForwarding is the greatest number of interfaces of scope "forwarding".
	MaxForwarding = 64

	maxMACs         = 512
	maxBlockedMACs  = 64
	maxBlockedAddrs = 512
	maxPorts        = 8
	filterWords     = 64
)

// layoutVersion names the meaning of the shared memory. Raise it when a field
// changes its meaning but not its size; sizes are part of the layout anyway.
const layoutVersion = 1

// mapNames is the order in which maps are handed from guard to worker.
var mapNames = []string{
	".data.control", ".data.filter", "gates", "conflicts", "vips",
	"members", "own_macs", "blocked", "counters", "events",
}

// loadSpec parses the embedded object. Its globals are mapped into user space.
func loadSpec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadGate()
	if err != nil {
		return nil, fmt.Errorf("read gate program: %w", err)
	}
	for _, name := range []string{".data.control", ".data.filter"} {
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
	}
	return spec, nil
}

const (
	offIncarnation = unsafe.Offsetof(bpf.GateControlData{}.Incarnation)

	offActive      = unsafe.Offsetof(bpf.GateFilterData{}.Active) // the word holds active and padding
	offForwardBits = unsafe.Offsetof(bpf.GateFilterData{}.ForwardBits)
	offVIPBits     = unsafe.Offsetof(bpf.GateFilterData{}.VipBits)
	offBlockedBits = unsafe.Offsetof(bpf.GateFilterData{}.BlockedBits)
	offForward     = unsafe.Offsetof(bpf.GateFilterData{}.Forward)
	offBlockedMACs = unsafe.Offsetof(bpf.GateFilterData{}.BlockedMacs)

	blockedMACSize = unsafe.Sizeof(bpf.GateBlockedMac{})

	gateSize        = unsafe.Sizeof(bpf.GateGateValue{})
	gateDeadline    = unsafe.Offsetof(bpf.GateGateValue{}.Deadline)
	gateIncarnation = unsafe.Offsetof(bpf.GateGateValue{}.Incarnation)
	gateSent        = unsafe.Offsetof(bpf.GateGateValue{}.Sent)
)

// VIP is a floating address and the group that it moves with.
type VIP struct {
	Addr  netip.Addr // without zone
	Group uint16     // below MaxGroups
}

// tables is the memory that guard, worker and kernel share.
type tables struct {
	maps    map[string]*ebpf.Map
	control *region
	filter  *region
	gates   *region
}

// newTables maps the memory of ms, which it owns from now on. Only the guard
// maps the number: the worker's descriptor of it is read-only, and the kernel
// lets nobody map such a one.
func newTables(ms map[string]*ebpf.Map, guard bool) (*tables, error) {
	t := &tables{maps: ms}
	var err [3]error
	if guard {
		t.control, err[0] = mapRegion(ms[".data.control"], int(unsafe.Sizeof(bpf.GateControlData{})))
	}
	t.filter, err[1] = mapRegion(ms[".data.filter"], int(unsafe.Sizeof(bpf.GateFilterData{})))
	t.gates, err[2] = mapRegion(ms["gates"], MaxGroups*int(gateSize))
	if e := errors.Join(err[:]...); e != nil {
		return nil, errors.Join(e, t.close())
	}
	return t, nil
}

func (t *tables) close() error {
	errs := []error{t.control.close(), t.filter.close(), t.gates.close()}
	for _, m := range t.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// number reads the guard's number through the kernel; 0 closes every gate.
func (t *tables) number() (uint64, error) {
	var v bpf.GateControlData
	if err := t.maps[".data.control"].Lookup(uint32(0), &v); err != nil {
		return 0, explain("read guard's number", err)
	}
	return v.Incarnation, nil
}

// setNumber writes the guard's number and reads it back through the kernel.
func (t *tables) setNumber(n uint64) error {
	t.control.store(offIncarnation, n)
	got, err := t.number()
	if err != nil {
		return err
	}
	if got != n {
		return fmt.Errorf("read back guard's number: wrote %d, kernel has %d", n, got)
	}
	return nil
}

// zero closes one group. The incarnation goes first: whatever mix of words a
// program reads meanwhile is closed.
func (t *tables) zero(group uint16) {
	base := uintptr(group) * gateSize
	t.gates.update(base+gateIncarnation, 0)
	t.gates.update(base+gateDeadline, 0)
	t.gates.update(base+gateSent, 0)
}

// isZero reads a group's value back through the kernel.
func (t *tables) isZero(group uint16) error {
	var v bpf.GateGateValue
	if err := t.maps["gates"].Lookup(uint32(group), &v); err != nil {
		return explain(fmt.Sprintf("read back gate of group %d", group), err)
	}
	return notZero(group, v)
}

// zeroAll closes every group by its value and reads all of them back. A store
// of a worker that is just dying may land between the two, hence three rounds.
func (t *tables) zeroAll() error {
	var err error
	for range 3 {
		for g := range MaxGroups {
			t.zero(uint16(g))
		}
		if err = t.checkZero(); !errors.Is(err, ErrNotClosed) {
			return err
		}
	}
	return err
}

// checkZero reads every gate value back through the kernel.
func (t *tables) checkZero() error {
	var cursor ebpf.MapBatchCursor
	keys := make([]uint32, MaxGroups)
	values := make([]bpf.GateGateValue, MaxGroups)
	n, err := t.maps["gates"].BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return explain("read back gates", err)
	}
	if n != MaxGroups {
		return fmt.Errorf("read back gates: got %d of %d", n, MaxGroups)
	}
	for i, v := range values {
		if err := notZero(uint16(keys[i]), v); err != nil {
			return err
		}
	}
	return nil
}

func notZero(group uint16, v bpf.GateGateValue) error {
	if v.Deadline == 0 && v.Incarnation == 0 && v.Sent == 0 {
		return nil
	}
	return fmt.Errorf("%w: group %d has deadline %d, incarnation %d, sent %d",
		ErrNotClosed, group, v.Deadline, v.Incarnation, v.Sent)
}

// hash32 and the functions below it must equal those of gate.c.
func hash32(x uint32) uint32 { return (x * 0x9e3779b1) >> (32 - 12) }

func hashAddr(a bpf.GateAddress) uint32 { return hash32(a.W[0] ^ a.W[1] ^ a.W[2] ^ a.W[3]) }

func hashMAC(m uint64) uint32 { return hash32(uint32(m) ^ uint32(m>>32)) }

// address is the key of a, IPv4 as ::ffff:a.b.c.d, words as they lie in memory.
func address(a netip.Addr) bpf.GateAddress {
	b := a.As16()
	var k bpf.GateAddress
	for i := range k.W {
		k.W[i] = uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24
	}
	return k
}

// packMAC is the key of a MAC, its first byte lowest.
func packMAC(m [6]byte) uint64 {
	var v uint64
	for i, b := range m {
		v |= uint64(b) << (8 * i)
	}
	return v
}

// bitset is one Bloom row of the fast filter.
type bitset [filterWords]uint64

func (b *bitset) set(h uint32) { b[h>>6] |= 1 << (h & 63) }

// raise adds the bits of b to the filter row at off.
func (t *tables) raise(off uintptr, b *bitset) {
	for i, w := range b {
		o := off + uintptr(i)*8
		t.filter.update(o, t.filter.load(o)|w)
	}
}

// settle makes the filter row at off equal to b.
func (t *tables) settle(off uintptr, b *bitset) {
	for i, w := range b {
		t.filter.update(off+uintptr(i)*8, w)
	}
}

// flag turns bits of the filter's active word on or off.
func (t *tables) flag(mask bpf.GateActive, on bool) {
	w := t.filter.load(offActive)
	if on {
		w |= uint64(mask)
	} else {
		w &^= uint64(mask)
	}
	t.filter.update(offActive, w)
}

// replaceAll makes a hash map hold exactly want: new and changed entries
// first, then the deletions.
func replaceAll[K comparable, V any](m *ebpf.Map, want map[K]V) error {
	for k, v := range want {
		if err := m.Put(k, v); err != nil {
			return explain(fmt.Sprintf("write entry %v", k), err)
		}
	}
	var (
		k     K
		v     V
		stale []K
	)
	it := m.Iterate()
	for it.Next(&k, &v) {
		if _, ok := want[k]; !ok {
			stale = append(stale, k)
		}
	}
	if err := it.Err(); err != nil {
		return explain("list entries", err)
	}
	for _, k := range stale {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain(fmt.Sprintf("delete entry %v", k), err)
		}
	}
	return nil
}
