package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"golang.org/x/sys/unix"
)

// ProbeOptions say what a probe asks for, from where and how often.
type ProbeOptions struct {
	// Target is the address; VIP4's when not set.
	Target netip.Addr
	// Client is the node that asks; "c1" when empty.
	Client string
	// Rate is the number of questions a second, 1 to 2000; 1000 when 0.
	Rate int
	// GapOver is the length above which a gap is listed; 5 ms when 0.
	GapOver time.Duration
	// Merge is the longest pause between two frames of a host that still
	// count as one stretch of activity; 4 ms when 0. An owner that is asked a
	// thousand times a second answers every millisecond, and no move there and
	// back is as quick: a legitimate one must not look like two owners.
	Merge time.Duration
	// Strangers are nodes that claim the address without a right to it, such
	// as the thief of Steal. What leaves by their ports is not looked at, and
	// their answers to the client are only counted.
	Strangers []string
}

func (o *ProbeOptions) fill() error {
	if !o.Target.IsValid() {
		o.Target = VIP4.Addr()
	}
	if o.Client == "" {
		o.Client = "c1"
	}
	if o.Rate == 0 {
		o.Rate = 1000
	}
	if o.GapOver == 0 {
		o.GapOver = 5 * time.Millisecond
	}
	if o.Merge == 0 {
		o.Merge = 4 * time.Millisecond
	}
	if o.Rate < 1 || o.Rate > 2000 || o.GapOver < 0 || o.Merge < 0 {
		return fmt.Errorf("start probe: rate %d (1 to 2000), gap threshold %v, merge window %v: out of range",
			o.Rate, o.GapOver, o.Merge)
	}
	return nil
}

// Probe measures who owns an address, and how long nobody does.
type Probe struct {
	lab     *Lab
	options ProbeOptions
	names   names
	// strangers are MACs whose answers do not count.
	strangers [][6]byte
	proc      *Proc
	stdin     io.WriteCloser
	read      chan struct{} // closed when the process has closed its output

	mu     sync.Mutex
	owner  sender
	seen   bool
	moved  chan struct{} // closed and replaced at each news
	result *probeResult
	err    error
}

// StartProbe starts a measurement and returns once it runs. One probe measures
// one address; several may run at once.
//
// Gaps. From a client a question goes out at a steady rate (a broadcast ARP
// request or a neighbour solicitation). An answer is a solicited reply to the
// client. A gap is the time between two consecutive answers, taken by the
// kernel when the frame reached the client, so with 1,000 questions a second a
// healthy owner shows gaps of 1 ms.
//
// Doubles. One capture socket on the bridge's ports sees every frame that any
// node sends as owner of the address (IP source, ARP sender, neighbour
// advertisement), before any fault of the lab drops it, once, with the time at
// which it left the node. Frames of one host that are no more than the merge
// window (4 ms) apart make one stretch of activity. A double is a pair of
// stretches of two hosts that share an instant; a single frame of one host
// between two frames of another counts. So A falling silent before B begins is
// no double however short the silence, also when A takes over again later, and
// A and B in turns (A, B, A) within 4 ms is one. Two interfaces of one host
// are one host. AnswerDoubles applies the same rule to the client's answers.
//
// The work is done by a process of its own (this executable, started again
// with a mark in its environment), which runs at real-time priority
// where that is allowed: neither the garbage collector of a test nor
// a busy machine may look like an outage of the address.
func (l *Lab) StartProbe(o ProbeOptions) (*Probe, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	p := &Probe{lab: l, options: o, read: make(chan struct{}), moved: make(chan struct{})}
	client, err := l.Node(o.Client)
	if err != nil {
		return nil, fmt.Errorf("start probe: %w", err)
	}
	nic := client.NICs[0]
	files, err := p.openSockets(nic)
	if err != nil {
		return nil, fmt.Errorf("start probe: %w", err)
	}
	defer closeAll(files)
	from := nic.IPv4.Addr()
	if o.Target.Is6() {
		from = nic.IPv6.Addr()
	}
	orders := probeOrders{
		Question: question(o.Target, nic.MAC, from), MAC: [6]byte(nic.MAC),
		Interval: int64(time.Second) / int64(o.Rate), GapOver: o.GapOver, Merge: o.Merge,
		Strangers: p.strangers, Ports: slices.Collect(maps.Keys(p.names.ports)),
	}
	if err := p.launch(files, orders); err != nil {
		return nil, fmt.Errorf("start probe: %w", err)
	}
	l.mu.Lock()
	l.probes[p] = true
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.wait(ctx, func() bool { return p.seen }); err != nil {
		p.abort()
		return nil, fmt.Errorf("start probe: %w", err)
	}
	return p, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// openSockets opens the client's socket and the capture in the lan namespace.
func (p *Probe) openSockets(nic NIC) ([]*os.File, error) {
	var files []*os.File
	open := func(node string, index int, skip []int) error {
		filter, err := ownFilter(p.options.Target, skip)
		if err != nil {
			return err
		}
		return p.lab.Do(node, func() error {
			fd, err := captureSocket(index, filter)
			if err == nil {
				files = append(files, os.NewFile(uintptr(fd), "packet:"+node))
			}
			return err
		})
	}
	link, err := p.lab.handles[p.options.Client].LinkByName(nic.Name)
	if err != nil {
		return nil, fmt.Errorf("find client's interface: %w", err)
	}
	skip, err := p.learnNames()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(open(p.options.Client, link.Attrs().Index, nil), open(Lan, 0, skip)); err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

// learnNames fills the names of ports and MACs, and returns the interfaces of
// the lan namespace that are no ports, since bridges and relays show frames a
// second time, and those of strangers.
func (p *Probe) learnNames() (skip []int, err error) {
	p.names = names{ports: map[int]string{}, macs: map[[6]byte]string{}}
	byPort := map[string]string{}
	for _, n := range p.lab.nodes {
		for _, c := range n.NICs {
			p.names.macs[[6]byte(c.MAC)] = n.Name
			if slices.Contains(p.options.Strangers, n.Name) {
				p.strangers = append(p.strangers, [6]byte(c.MAC))
				continue
			}
			byPort[c.Port] = n.Name
		}
	}
	links, err := p.lab.handles[Lan].LinkList()
	if err != nil {
		return nil, fmt.Errorf("list ports: %w", err)
	}
	for _, link := range links {
		a := link.Attrs()
		if node, ok := byPort[a.Name]; ok {
			p.names.ports[a.Index] = node
		} else {
			skip = append(skip, a.Index)
		}
	}
	return skip, nil
}

func (p *Probe) launch(files []*os.File, orders probeOrders) error {
	proc, stdin, stdout, err := p.lab.startSelf(probeMark, orders, files)
	if err != nil {
		return err
	}
	p.proc, p.stdin = proc, stdin
	go p.follow(stdout)
	return nil
}

// startSelf starts this executable in the lan namespace with orders in the
// environment and files from descriptor 3 on. The caller closes the pipes.
func (l *Lab) startSelf(mark string, orders any, files []*os.File) (proc *Proc, stdin, stdout *os.File, err error) {
	raw, err := json.Marshal(orders)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("encode orders: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), mark+"="+string(raw),
		"GORACE=atexit_sleep_ms=0",  // a race build would sleep for a second at its end
		"GODEBUG=asyncpreemptoff=1") // its signals would only wake the thread that asks
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	// Pipes of our own: exec.Cmd's would be closed by its Wait, which runs
	// beside the reader.
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		closeAll([]*os.File{in, stdin})
		return nil, nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	cmd.Stdin, cmd.Stdout = in, out
	proc, err = l.Start(Lan, cmd)
	closeAll([]*os.File{in, out})
	if err != nil {
		closeAll([]*os.File{stdin, stdout})
		return nil, nil, nil, err
	}
	return proc, stdin, stdout, nil
}

// follow reads what the process reports until it ends.
func (p *Probe) follow(stdout *os.File) {
	defer close(p.read)
	defer stdout.Close()
	dec := json.NewDecoder(bufio.NewReader(stdout))
	for {
		var news probeNews
		err := dec.Decode(&news)
		p.mu.Lock()
		switch {
		case err != nil:
			if p.result == nil {
				p.err = errors.New("probe process ended without a result")
			}
		case news.Result != nil:
			p.result = news.Result
		default:
			p.owner, p.seen = news.Owner, true
		}
		close(p.moved)
		p.moved = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// wait waits until the condition holds, which is looked at under the lock at
// each news.
func (p *Probe) wait(ctx context.Context, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, err, moved := cond(), p.err, p.moved
		p.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Owner returns the node whose answer the client received last, as of at most
// 10 ms ago; empty before the first.
func (p *Probe) Owner() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ownerLocked()
}

func (p *Probe) ownerLocked() string {
	if p.owner == (sender{}) {
		return ""
	}
	return p.names.host(p.owner)
}

// WaitOwner waits until the answer that the client received last is the node's;
// an empty name means any owner. It returns the owner. While two owners answer
// in turns it may see only one of them.
func (p *Probe) WaitOwner(ctx context.Context, node string) (string, error) {
	err := p.wait(ctx, func() bool {
		o := p.ownerLocked()
		return o != "" && (node == "" || o == node)
	})
	if err != nil {
		return p.Owner(), fmt.Errorf("wait for owner %q of %v (now %q): %w", node, p.options.Target, p.Owner(), err)
	}
	return p.Owner(), nil
}

// Stop ends the measurement and returns its report.
func (p *Probe) Stop() (*Report, error) {
	p.stdin.Close()
	select {
	case <-p.read:
	case <-time.After(20 * time.Second):
		p.abort()
		return nil, errors.New("stop probe: its process did not end in 20 s")
	}
	p.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.result == nil {
		return nil, fmt.Errorf("stop probe: %w", p.err)
	}
	return p.report(p.result), nil
}

// abort ends the measurement without a report.
func (p *Probe) abort() {
	p.stdin.Close()
	_ = p.proc.Signal(unix.SIGKILL) // ended already is as good
	<-p.read
	p.forget()
}

func (p *Probe) forget() {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	delete(p.lab.probes, p)
}

// report turns numbers of interfaces into names.
func (p *Probe) report(r *probeResult) *Report {
	out := &Report{
		Target: p.options.Target, Started: r.Started, Stopped: r.Stopped,
		Sent: r.Sent, Answered: r.Answered, Skipped: r.Skipped, SendErrors: r.SendErrors,
		StrangerAnswers: r.Strangers,
		LateP99:         r.LateP99, LateMax: r.LateMax, LongestPause: r.LongestPause,
		Longest: r.Longest, Gaps: r.Gaps, GapsLeftOut: r.GapsLeftOut,
		Frames: r.Frames, ChangeCount: r.Changed,
		Lost: r.Lost, Truncated: r.Truncated, CPU: r.CPU,
	}
	for _, c := range r.Changes {
		out.Changes = append(out.Changes, Change{At: c.At, From: p.names.host(c.From), To: p.names.host(c.To)})
	}
	cables, answers := r.Cables.activity(p.options.Merge), r.Client.activity(p.options.Merge)
	list, total := cables.overlaps(p.names.different)
	out.Doubles, out.DoubleCount = p.names.doubles(list), total
	list, total = answers.overlaps(p.names.different)
	out.AnswerDoubles, out.AnswerDoubleCount = p.names.doubles(list), total
	for _, s := range r.Cables {
		first, last := s.Runs[0], s.Runs[len(s.Runs)-1]
		o := Owner{Node: p.names.node(s.Sender), MAC: s.Sender.hardware(), First: first.Start, Last: last.End}
		for _, run := range s.Runs {
			o.Frames += run.Frames
		}
		out.Owners = append(out.Owners, o)
	}
	return out
}

// Now returns the boot time in ns, the clock of reports and faults.
func Now() int64 { return clock.Boottime() }
