package kv

// fifo is a queue in chunks whose copies are immutable and cost nothing: a
// copy of the struct keeps the elements it had, whatever is pushed and popped
// later. Only the newest of all copies may be changed.
type fifo[T any] struct {
	size int   // elements of a chunk
	full [][]T // chunks of size elements
	tail []T   // the last chunk, not full
	base int   // elements of the first chunk that are gone
}

func (f *fifo[T]) len() int { return len(f.full)*f.size + len(f.tail) - f.base }

// at returns element i, 0 for the oldest.
func (f *fifo[T]) at(i int) *T {
	i += f.base
	if c := i / f.size; c < len(f.full) {
		return &f.full[c][i%f.size]
	}
	return &f.tail[i-len(f.full)*f.size]
}

func (f *fifo[T]) push(v T) {
	// Copies see only their own length of tail and of full, so that what is
	// appended behind it is out of their sight.
	f.tail = append(f.tail, v)
	if len(f.tail) == f.size {
		f.full = append(f.full, f.tail)
		f.tail = make([]T, 0, f.size)
	}
}

// pop removes the oldest element; it returns whether its chunk is gone too.
func (f *fifo[T]) pop() bool {
	f.base++
	if f.base < f.size {
		return false
	}
	// A new list, because the old one would keep the chunk in memory. The base
	// reaches size only in a full chunk.
	f.full = append([][]T(nil), f.full[1:]...)
	f.base = 0
	return true
}

// shed moves the rest of the first chunk to new memory, so that what the
// elements before it refer to becomes free.
func (f *fifo[T]) shed() {
	if len(f.full) == 0 {
		tail := make([]T, len(f.tail), f.size)
		copy(tail[f.base:], f.tail[f.base:])
		f.tail = tail
		return
	}
	first := make([]T, f.size)
	copy(first[f.base:], f.full[0][f.base:])
	f.full = append([][]T{first}, f.full[1:]...)
}
