package kv

import (
	"runtime"
	"testing"
	"weak"

	"pgregory.net/rapid"
)

// A fifo against a slice, with copies that must keep what they had.
func TestFIFO(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type kept struct {
			f    fifo[int]
			want []int
		}
		now := kept{f: fifo[int]{size: rapid.IntRange(1, 5).Draw(t, "size")}}
		var copies []kept
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 7).Draw(t, "n") {
					next++
					now.f.push(next)
					now.want = append(now.want, next)
				}
			},
			"pop": func(t *rapid.T) {
				for range min(len(now.want), rapid.IntRange(1, 7).Draw(t, "n")) {
					now.f.pop()
					now.want = now.want[1:]
				}
			},
			"shed": func(*rapid.T) { now.f.shed() },
			"copy": func(*rapid.T) { copies = append(copies, now) },
			"": func(t *rapid.T) {
				for _, k := range append(copies, now) {
					if k.f.len() != len(k.want) {
						t.Fatalf("%d elements, want %d", k.f.len(), len(k.want))
					}
					for i, want := range k.want {
						if *k.f.at(i) != want {
							t.Fatalf("element %d is %d, want %d", i, *k.f.at(i), want)
						}
					}
				}
			},
		})
	})
}

// What was popped must become free: with its chunk, or by shed.
func TestFIFOFrees(t *testing.T) {
	f := fifo[*[64]byte]{size: 4}
	var refs []weak.Pointer[[64]byte]
	push := func(n int) {
		for range n {
			p := new([64]byte)
			refs = append(refs, weak.Make(p))
			f.push(p)
		}
	}
	alive := func() (n int) {
		runtime.GC()
		for _, r := range refs {
			if r.Value() != nil {
				n++
			}
		}
		return n
	}
	push(10)
	for range 4 {
		f.pop()
	}
	if n := alive(); n != 6 {
		t.Errorf("%d elements after the first chunk, want 6", n)
	}
	f.pop()
	f.shed()
	if n := alive(); n != 5 {
		t.Errorf("%d elements after shed in a chunk, want 5", n)
	}
	for range 4 {
		f.pop()
	}
	f.shed()
	if n := alive(); n != 1 {
		t.Errorf("%d elements after shed in the last chunk, want 1", n)
	}
	push(1)
	if f.len() != 2 || alive() != 2 {
		t.Errorf("%d elements, %d in memory, want 2", f.len(), alive())
	}
	runtime.KeepAlive(&f)
}
