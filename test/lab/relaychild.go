package lab

import (
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// relayMark in the environment makes this executable a relay; its value has
// the orders. The process gets two sockets for each wire from descriptor 3 on,
// that of the node's cable first. It writes an empty count when it relays, and
// the true one when its standard input has ended.
const relayMark = "HOLDFAST_LAB_RELAY"

func init() {
	orders := os.Getenv(relayMark)
	if orders == "" {
		return
	}
	if err := relayProcess([]byte(orders)); err != nil {
		fmt.Fprintf(os.Stderr, "lab relay: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type relayOrders struct {
	Wires   int
	Out, In Impairment
	Seed    uint64
}

const (
	vnetHeader   = 10              // bytes of struct virtio_net_hdr
	longestFrame = 1<<16 + 1<<10   // bytes, of a frame that is still to be cut
	heldLimit    = 1 << 14         // frames that wait
	overtake     = int64(20 * 1e6) // ns that a frame out of order waits longer, at most
	relayPoll    = 100 * time.Millisecond
)

func relayProcess(raw []byte) error {
	var o relayOrders
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("decode orders: %w", err)
	}
	preferProcess()
	var quit atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with our starter at the latest
		quit.Store(true)
	}()
	s := newSwitcher(o)
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(RelayCount{}); err != nil {
		return fmt.Errorf("report start: %w", err)
	}
	for !quit.Load() {
		if err := s.turn(); err != nil {
			return err
		}
	}
	return out.Encode(s.count)
}

// direction is one way of a wire.
type direction struct {
	from, to int // descriptors
	what     Impairment
	last     int64 // when the newest frame in order leaves
}

// waiting is a frame on its way.
type waiting struct {
	due   int64 // boot time, ns
	order uint64
	to    int
	frame []byte
}

// switcher moves the frames.
type switcher struct {
	ways  []direction
	polls []unix.PollFd
	rand  *rand.Rand
	held  waitingHeap
	order uint64
	spare [][]byte
	read  [vnetHeader + longestFrame]byte
	count RelayCount
}

func newSwitcher(o relayOrders) *switcher {
	s := &switcher{rand: rand.New(rand.NewPCG(o.Seed, 0))}
	for i := range o.Wires {
		node, lan := 3+2*i, 4+2*i
		s.ways = append(s.ways, direction{from: node, to: lan, what: o.Out}, direction{from: lan, to: node, what: o.In})
	}
	for _, w := range s.ways {
		s.polls = append(s.polls, unix.PollFd{Fd: int32(w.from), Events: unix.POLLIN})
	}
	return s
}

// turn waits for a frame or the time of one, and moves what there is to move.
func (s *switcher) turn() error {
	wait := int64(relayPoll)
	if len(s.held) > 0 {
		wait = min(wait, max(0, s.held[0].due-rawBoottime()))
	}
	ts := unix.NsecToTimespec(wait)
	if _, err := unix.Ppoll(s.polls, &ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for frames: %w", err)
	}
	for i := range s.ways {
		if s.polls[i].Revents != 0 {
			s.receive(&s.ways[i])
		}
	}
	for now := rawBoottime(); len(s.held) > 0 && s.held[0].due <= now; {
		w := heap.Pop(&s.held).(waiting)
		// A device that is down loses what it gets, as a cable does.
		if unix.Sendto(w.to, w.frame, unix.MSG_DONTWAIT, nil) != nil {
			s.count.Lost++
		}
		s.spare = append(s.spare, w.frame)
	}
	return nil
}

// receive takes what has come one way, some frames at most: the other ways
// have their turn too.
func (s *switcher) receive(d *direction) {
	for range 64 {
		// An error is that the device went down, or that there is no frame.
		n, _, err := unix.Recvfrom(d.from, s.read[:], unix.MSG_DONTWAIT)
		if err != nil || n < vnetHeader {
			return
		}
		s.accept(d, s.read[:n], rawBoottime())
	}
}

// accept decides what becomes of a frame that came at now.
func (s *switcher) accept(d *direction, frame []byte, now int64) {
	s.count.Relayed++
	if s.drawn(d.what.Lose) || len(s.held) >= heldLimit {
		s.count.Lost++
		return
	}
	due := now + int64(d.what.Delay)
	if d.what.Jitter > 0 {
		due += s.rand.Int64N(int64(d.what.Jitter) + 1)
	}
	if s.drawn(d.what.Reorder) {
		s.count.Reordered++
		due += s.rand.Int64N(overtake + 1)
	} else {
		due = max(due, d.last)
		d.last = due
	}
	s.hold(d.to, frame, due)
	if s.drawn(d.what.Duplicate) {
		s.count.Duplicated++
		s.hold(d.to, frame, due+s.rand.Int64N(overtake+1))
	}
}

func (s *switcher) drawn(percent float64) bool {
	return percent > 0 && s.rand.Float64()*100 < percent
}

func (s *switcher) hold(to int, frame []byte, due int64) {
	var room []byte
	if n := len(s.spare); n > 0 {
		room, s.spare = s.spare[n-1][:0], s.spare[:n-1]
	}
	s.order++
	heap.Push(&s.held, waiting{due: due, order: s.order, to: to, frame: append(room, frame...)})
}

// waitingHeap has the frame that leaves next first; of two that leave at the
// same time, the one that came first.
type waitingHeap []waiting

func (h waitingHeap) Len() int { return len(h) }
func (h waitingHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].order < h[j].order
}
func (h waitingHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *waitingHeap) Push(x any)   { *h = append(*h, x.(waiting)) }
func (h *waitingHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = waiting{}
	*h = old[:len(old)-1]
	return last
}
