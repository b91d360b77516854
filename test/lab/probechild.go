package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probeMark in the environment makes this executable a probe process; its
// value has the orders. The process gets the client's socket as descriptor 3
// and the capture as 4, measures until its standard input ends, and writes
// news as JSON to its standard output.
const probeMark = "HOLDFAST_LAB_PROBE"

func init() {
	orders := os.Getenv(probeMark)
	if orders == "" {
		return
	}
	if err := probeProcess([]byte(orders)); err != nil {
		fmt.Fprintf(os.Stderr, "lab probe: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// probeOrders are the orders to a probe process.
type probeOrders struct {
	Question []byte
	MAC      [6]byte // of the client
	Interval int64   // ns between questions
	GapOver  time.Duration
	Merge    time.Duration
	// Strangers are MACs whose answers are only counted, Ports the interfaces
	// whose frames count: a relay that is put in later shows them again.
	Strangers [][6]byte
	Ports     []int
}

// probeNews is what a probe process writes: the owner that answered last
// when it changed, in the end the result.
type probeNews struct {
	Owner  sender
	Result *probeResult `json:",omitempty"`
}

// probeResult is what a probe process measured.
type probeResult struct {
	Started, Stopped                  int64
	Sent, Answered, Skipped           int64
	Strangers                         int64 // answers of strangers
	SendErrors, Frames, Changed, Lost int64
	LateP99, LateMax                  time.Duration
	LongestPause, Longest             Gap
	Gaps                              []Gap
	GapsLeftOut                       int64
	Changes                           []change
	Cables, Client                    senderRuns
	Truncated                         bool
	CPU                               time.Duration
}

// senderRuns is an activity in a form that JSON knows.
type senderRuns []struct {
	Sender sender
	Runs   []run
}

func (a *activity) list() senderRuns {
	var out senderRuns
	for s, runs := range a.runs {
		out = append(out, struct {
			Sender sender
			Runs   []run
		}{s, runs})
	}
	slices.SortFunc(out, func(x, y struct {
		Sender sender
		Runs   []run
	}) int {
		return cmp.Compare(x.Runs[0].Start, y.Runs[0].Start)
	})
	return out
}

func (l senderRuns) activity(merge time.Duration) *activity {
	a := newActivity(merge)
	for _, s := range l {
		a.runs[s.Sender] = s.Runs
	}
	return a
}

// gatherEvery is the time between two looks at the sockets. The kernel stamps
// every frame when it arrives, so a late look costs no accuracy.
const gatherEvery = 10 * time.Millisecond

func probeProcess(raw []byte) error {
	var o probeOrders
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("decode orders: %w", err)
	}
	// Nothing here makes garbage; a collection would only disturb.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(512 << 20)
	preferProcess()
	runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0)))

	quit := make(chan struct{})
	go func() {
		defer close(quit)
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with our starter at the latest
	}()
	const clientFD, captureFD = 3, 4
	client, cables := newReceiver(clientFD), newReceiver(captureFD)
	// The kernel begins to stamp frames some time after the first socket
	// that wants stamps; what came before is not to be trusted.
	client.discard()
	cables.discard()
	asker := newAsker(clientFD, o)
	gatherer := &gatherer{
		orders: o, client: client, cables: cables, out: json.NewEncoder(os.Stdout),
		answers: newActivity(o.Merge), owners: newActivity(o.Merge), silence: newSilence(asker.begin, o.GapOver),
	}
	if err := gatherer.out.Encode(probeNews{}); err != nil {
		return fmt.Errorf("report start: %w", err)
	}
	go asker.loop()
	gatherer.loop(quit, asker)
	return gatherer.finish(asker)
}

// asker sends the questions from a thread of its own.
type asker struct {
	fd       int
	question []byte
	interval int64
	begin    int64 // boot time of the first question, ns
	quit     atomic.Bool
	done     chan struct{}

	// Valid once done is closed.
	sent, skipped, errors int64
	last                  int64
	longest               Gap
	late                  lateness
}

// catchUp is how late a question may be and still be sent.
const catchUp = 5 * time.Millisecond

func newAsker(fd int, o probeOrders) *asker {
	return &asker{
		fd: fd, question: o.Question, interval: o.Interval,
		begin: Now() + int64(2*time.Millisecond), done: make(chan struct{}),
	}
}

// loop sends question i at begin + i x interval, whatever the earlier ones
// did: it does not drift. It uses raw system calls throughout: the Go
// scheduler is not told that the thread sleeps, so it neither takes the
// processor away nor makes the thread wait to get it back. That costs less
// than half of what ordinary system calls cost here, and this process has
// nothing else that needs the processor.
func (a *asker) loop() {
	defer close(a.done)
	runtime.LockOSThread() // the thread ends with the loop
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for i := int64(0); !a.quit.Load(); i++ {
		due := a.begin + i*a.interval
		now := sleepUntil(due)
		if now-due > int64(catchUp) {
			behind := (now - due) / a.interval
			a.skipped += behind
			i += behind
			due += behind * a.interval
		}
		a.send(now, now-due)
	}
}

func (a *asker) send(now, late int64) {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(a.fd), uintptr(unsafe.Pointer(&a.question[0])), uintptr(len(a.question)))
	if errno != 0 {
		a.errors++
		return
	}
	if a.sent > 0 && now-a.last > a.longest.End-a.longest.Start {
		a.longest = Gap{Start: a.last, End: now}
	}
	a.sent++
	a.last = now
	a.late.add(late)
}

// preferProcess gives the process real-time priority: all its threads, since
// the Go scheduler may need any of them to wake the one that asks. Threads
// made later inherit it. Without the right to it measurements are merely
// coarser.
func preferProcess() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			_ = unix.SchedSetAttr(tid, &unix.SchedAttr{
				Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1,
			}, 0)
		}
	}
}

// sleepUntil sleeps until a boot time (ns) and returns the time of waking.
func sleepUntil(at int64) int64 {
	for {
		now := rawBoottime()
		if now >= at {
			return now
		}
		ts := unix.NsecToTimespec(at)
		// An interrupted sleep is begun again by the loop.
		_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_BOOTTIME, unix.TIMER_ABSTIME,
			uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	}
}

func rawBoottime() int64 { return rawClock(unix.CLOCK_BOOTTIME) }

func rawClock(id uintptr) int64 {
	var ts unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// lateness is a histogram in steps of 10 us up to 20 ms.
type lateness struct {
	buckets [2000]int64
	count   int64
	max     int64
}

const latenessStep = int64(10 * time.Microsecond)

func (l *lateness) add(ns int64) {
	l.buckets[min(ns/latenessStep, int64(len(l.buckets)-1))]++
	l.count++
	l.max = max(l.max, ns)
}

// p99 returns the upper end of the bucket that has the 99th percentile.
func (l *lateness) p99() time.Duration {
	left := l.count - l.count/100
	for i, n := range l.buckets {
		if left -= n; left <= 0 {
			return time.Duration(int64(i+1) * latenessStep)
		}
	}
	return time.Duration(l.max)
}

// gatherer owns all that is measured from received frames.
type gatherer struct {
	orders          probeOrders
	client, cables  *receiver
	out             *json.Encoder
	answers, owners *activity
	silence         *silence
	strangers       int64
	broken          bool // nobody reads our output any more
}

func (g *gatherer) loop(quit <-chan struct{}, a *asker) {
	ticker := time.NewTicker(gatherEvery)
	defer ticker.Stop()
	for !g.broken {
		select {
		case <-quit:
			a.quit.Store(true)
			<-a.done
			// The answers to the last questions are on their way.
			time.Sleep(2 * gatherEvery)
			g.gather()
			return
		case <-ticker.C:
			g.gather()
		}
	}
}

func (g *gatherer) gather() {
	before := g.answers.last
	g.client.each(func(frame []byte, _ int, at int64) {
		if !isAnswer(frame, g.orders.MAC) {
			return
		}
		if slices.Contains(g.orders.Strangers, [6]byte(frame[6:12])) {
			g.strangers++
			return
		}
		g.answers.add(sender{MAC: [6]byte(frame[6:12])}, at)
		g.silence.answer(at)
	})
	g.cables.each(func(frame []byte, port int, at int64) {
		if len(frame) >= 14 && slices.Contains(g.orders.Ports, port) {
			g.owners.add(sender{MAC: [6]byte(frame[6:12]), Port: port}, at)
		}
	})
	if g.answers.last != before {
		g.broken = g.out.Encode(probeNews{Owner: g.answers.last}) != nil
	}
}

func (g *gatherer) finish(a *asker) error {
	answered := g.answers.frames
	// A silence that lasts until the end counts up to the last question.
	g.silence.answer(a.last)
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return fmt.Errorf("read processor time: %w", err)
	}
	return g.out.Encode(probeNews{Result: &probeResult{
		Started: a.begin, Stopped: a.last,
		Sent: a.sent, Answered: answered, Skipped: a.skipped, SendErrors: a.errors, Strangers: g.strangers,
		Frames: g.owners.frames, Changed: g.owners.changed, Lost: g.client.lost() + g.cables.lost(),
		LateP99: a.late.p99(), LateMax: time.Duration(a.late.max), LongestPause: a.longest,
		Longest: g.silence.longest, Gaps: g.silence.gaps, GapsLeftOut: g.silence.dropped,
		Changes: g.owners.changes, Cables: g.owners.list(), Client: g.answers.list(),
		Truncated: g.owners.truncated || g.answers.truncated,
		CPU:       time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
	}})
}

// receiver reads frames from a packet socket without making garbage.
type receiver struct {
	fd      int
	frame   [acceptFrame]byte
	name    unix.RawSockaddrLinklayer
	control [64]byte
	iov     unix.Iovec
	msg     unix.Msghdr
}

func newReceiver(fd int) *receiver {
	r := &receiver{fd: fd}
	r.iov.Base = &r.frame[0]
	r.iov.SetLen(len(r.frame))
	r.msg.Iov = &r.iov
	r.msg.SetIovlen(1)
	r.msg.Name = (*byte)(unsafe.Pointer(&r.name))
	r.msg.Control = &r.control[0]
	return r
}

// next reads one frame; n < 0 means that there is none now. stamp is the wall
// clock in ns at which the frame arrived.
func (r *receiver) next() (n int, stamp int64) {
	r.msg.Namelen = unix.SizeofSockaddrLinklayer
	r.msg.SetControllen(len(r.control))
	got, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return -1, 0
	}
	header := (*unix.Cmsghdr)(unsafe.Pointer(&r.control[0]))
	if int(r.msg.Controllen) < unix.CmsgLen(int(unsafe.Sizeof(unix.Timespec{}))) ||
		header.Level != unix.SOL_SOCKET || header.Type != unix.SO_TIMESTAMPNS {
		return int(got), rawClock(unix.CLOCK_REALTIME)
	}
	ts := (*unix.Timespec)(unsafe.Pointer(&r.control[unix.CmsgLen(0)]))
	return int(got), ts.Nano()
}

// each calls fn for every frame that has arrived, with the index of the
// interface that it came through and the boot time of its arrival.
func (r *receiver) each(fn func(frame []byte, port int, at int64)) {
	offset := wallOffset()
	for {
		n, stamp := r.next()
		if n < 0 {
			return
		}
		fn(r.frame[:min(n, len(r.frame))], int(r.name.Ifindex), stamp-offset)
	}
}

func (r *receiver) discard() {
	for n := 0; n >= 0; {
		n, _ = r.next()
	}
}

// lost returns the number of frames that found the socket's buffer full.
func (r *receiver) lost() int64 {
	st, err := unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 1 // unknown is not none
	}
	return int64(st.Drops)
}

// wallOffset returns wall clock less boot time in ns. The kernel stamps frames
// by the wall clock; reading the difference anew for each batch follows a
// clock that is being slewed. Of three readings the tightest is used.
func wallOffset() int64 {
	var offset, best int64
	for i := range 3 {
		before := rawBoottime()
		wall := rawClock(unix.CLOCK_REALTIME)
		after := rawBoottime()
		if i == 0 || after-before < best {
			best, offset = after-before, wall-before-(after-before)/2
		}
	}
	return offset
}
