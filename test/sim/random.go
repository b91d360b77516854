package sim

import (
	"crypto/rand"
	"hash/fnv"
	"io"
	mrand "math/rand/v2"
	"time"
)

// stream returns a source of random numbers of its own for one part of a run,
// so that what one part draws never depends on how often another does.
func stream(seed uint64, name string) *mrand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return mrand.New(mrand.NewPCG(seed, h.Sum64()))
}

// span draws a time of at least lo and less than hi, in ns.
func span(r *mrand.Rand, lo, hi time.Duration) int64 {
	if hi <= lo {
		return int64(lo)
	}
	return int64(lo) + r.Int64N(int64(hi-lo))
}

func chance(r *mrand.Rand, p float64) bool { return p > 0 && r.Float64() < p }

// dice stands in for the kernel's random source while a run lasts: what a
// worker draws comes from the stream of its host.
type dice struct{ current *mrand.Rand }

// Read implements io.Reader.
func (d *dice) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(d.current.Uint32())
	}
	return len(b), nil
}

// replaceRandom makes d the source of crypto/rand and returns the function that
// gives it back.
func replaceRandom(d io.Reader) (restore func()) {
	old := rand.Reader
	rand.Reader = d
	return func() { rand.Reader = old }
}
