package transport

const (
	windowWords = 128
	// windowSize is how far behind the newest counter a datagram may be:
	// one word of the ring is always being cleared (RFC 6479, 8,128).
	windowSize = (windowWords - 1) * 64
)

// window remembers which counters of a session have been seen (RFC 6479). The
// zero value has seen none. It must be asked only for authenticated counters:
// a forged one would move it.
type window struct {
	newest uint64
	seen   [windowWords]uint64 // bit counter%64 of word counter/64%windowWords
}

// accept says whether counter is new and not behind the window, and marks it.
func (w *window) accept(counter uint64) bool {
	if counter+windowSize < w.newest {
		return false
	}
	word := counter / 64
	if counter > w.newest {
		// Words between the old and the new newest belong to counters that
		// were not seen yet; a whole turn clears everything.
		for i := range min(word-w.newest/64, windowWords) {
			w.seen[(word-i)%windowWords] = 0
		}
		w.newest = counter
	}
	bit := uint64(1) << (counter % 64)
	slot := &w.seen[word%windowWords]
	if *slot&bit != 0 {
		return false
	}
	*slot |= bit
	return true
}
