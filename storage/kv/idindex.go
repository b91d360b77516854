package kv

import "github.com/holdfast-ha/holdfast/internal/invariant"

// ringSize is how many positions an idIndex can tell apart.
const ringSize = 2 * MaxIDs

// idIndex maps ids to positions: a table with open addressing that holds no
// pointers, takes 8 bytes a slot and is at most half full. An element stands in
// the first free slot from its home on; remove keeps that so.
type idIndex struct {
	// slots has a power of two of them: 32 bits of the id above, position + 1
	// below, 0 when free.
	slots []uint64
	used  int
}

const minSlots = 64

func idTag(id idHash) uint64 { return id[0] >> 32 << 32 }

func (x *idIndex) mask() uint64 { return uint64(len(x.slots) - 1) }

// home returns where the search for a slot's element begins.
func (x *idIndex) home(slot uint64) uint64 { return slot >> 32 & x.mask() }

// begin returns where the search for an id begins.
func (x *idIndex) begin(id idHash) uint64 {
	if len(x.slots) == 0 {
		return 0
	}
	return x.home(idTag(id))
}

// touch reads the slot where the search for an id begins; there are slots.
func (x *idIndex) touch(id idHash) uint64 { return x.slots[id[0]>>32&x.mask()] }

// next returns the position of the next element, from slot *at on, that may
// have the id, and moves *at to it; false when there is none.
func (x *idIndex) next(id idHash, at *uint64) (pos uint32, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	for tag := idTag(id); ; *at++ {
		slot := x.slots[*at&x.mask()]
		if slot == 0 {
			return 0, false
		}
		if slot>>32<<32 == tag {
			return uint32(slot) - 1, true
		}
	}
}

// insert puts an element into the table that is not there.
func (x *idIndex) insert(id idHash, pos uint32) {
	if 2*(x.used+1) > len(x.slots) {
		x.grow()
	}
	x.place(idTag(id) | uint64(pos+1))
	x.used++
}

func (x *idIndex) place(slot uint64) {
	at := x.home(slot)
	for x.slots[at] != 0 {
		at = (at + 1) & x.mask()
	}
	x.slots[at] = slot
}

func (x *idIndex) grow() {
	old := x.slots
	x.slots = make([]uint64, max(minSlots, 2*len(old)))
	for _, slot := range old {
		if slot != 0 {
			x.place(slot)
		}
	}
}

// remove takes an element away that is there, and moves those behind it that
// would not be found over the gap.
func (x *idIndex) remove(id idHash, pos uint32) {
	want := idTag(id) | uint64(pos+1)
	gap := x.begin(id)
	for x.slots[gap] != want {
		if x.slots[gap] == 0 { // the arguments of Check would cost an allocation
			invariant.Check(false, "request id at position %d is not in the index of %d", pos, x.used)
		}
		gap = (gap + 1) & x.mask()
	}
	for at := (gap + 1) & x.mask(); x.slots[at] != 0; at = (at + 1) & x.mask() {
		if (at-x.home(x.slots[at]))&x.mask() >= (at-gap)&x.mask() {
			x.slots[gap] = x.slots[at]
			gap = at
		}
	}
	x.slots[gap] = 0
	x.used--
}
