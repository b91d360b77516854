package kv

import (
	"testing"

	"pgregory.net/rapid"
)

// An index against a map. Few tags and few homes, so that ids that differ stand
// in one row, also over the end of the table.
func TestIDIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x idIndex
		want := map[idHash]uint32{}
		var order []idHash
		next := uint32(0)
		genID := rapid.Custom(func(t *rapid.T) idHash {
			home := rapid.SampledFrom([]uint64{0, 1, 2, minSlots - 2, minSlots - 1, 1 << 31}).Draw(t, "home")
			return idHash{home<<32 | uint64(rapid.IntRange(0, 1).Draw(t, "low")), uint64(rapid.IntRange(0, 5).Draw(t, "second"))}
		})
		find := func(id idHash) (uint32, bool) {
			for at := x.begin(id); ; at++ {
				pos, ok := x.next(id, &at)
				if !ok || want[id] == pos && len(want) > 0 {
					_, there := want[id]
					return pos, ok && there
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				id := genID.Draw(t, "id")
				if _, ok := want[id]; ok {
					return
				}
				x.insert(id, next%ringSize)
				want[id], order = next%ringSize, append(order, id)
				next += uint32(rapid.IntRange(1, ringSize/3).Draw(t, "gap"))
			},
			"remove": func(t *rapid.T) {
				if len(order) == 0 {
					return
				}
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				x.remove(order[i], want[order[i]])
				delete(want, order[i])
				order = append(order[:i:i], order[i+1:]...)
			},
			"": func(t *rapid.T) {
				if x.used != len(want) || 2*x.used > len(x.slots) {
					t.Fatalf("%d elements in %d slots, want %d", x.used, len(x.slots), len(want))
				}
				for id, pos := range want {
					if got, ok := find(id); !ok || got != pos {
						t.Fatalf("id %x: position %d, %v, want %d", id, got, ok, pos)
					}
				}
			},
		})
	})
}
