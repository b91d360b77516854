package sim

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// Options of one run.
type Options struct {
	Seed uint64
	// Mode is "" for the usual faults, "beyond" for clock rates beyond rho.
	Mode string
	// Profile is default, fast or wan; "" lets the seed choose.
	Profile string
	// Members is 3 or 5; 0 lets the seed choose.
	Members int
	// Paths is how many times each beat is sent, as on several networks; 0 lets
	// the seed choose.
	Paths int
	// Plan replaces the plan that the seed gives, unless it is nil.
	Plan []Fault
	// Row runs one scenario of the table of times in place of a plan.
	Row string
	// Log gets every line of the trace, and the workers' own, unless nil.
	Log func(string)
}

// beyond is the mode in which clocks are worse than any promise allows.
const beyond = "beyond"

// world is one run.
type world struct {
	opt     Options
	seed    uint64
	timing  lease.Timing
	scale   float64 // of times that depend on the profile
	now     int64
	agenda  agenda
	dice    dice
	hosts   []*host
	byName  map[string]*host
	net     *network
	check   *checks
	clients *clients
	plan    []Fault
	active  int // faults under way
	strikes int // faults so far
	trace   trace
	turns   uint64
	events  uint64
	failure *Violation
	done    bool
	vips    []netip.Addr
	healed  int64 // true time at which the plan was over
	row     *rowRun
	calm    calm
	result  Result
}

// Violation is a promise that was broken.
type Violation struct {
	What string // I1 and so on, or G5, panic, stuck
	Text string
	At   int64
}

func (v *Violation) Error() string { return fmt.Sprintf("%s at %s: %s", v.What, stamp(v.At), v.Text) }

// violate ends the run.
func (w *world) violate(what, format string, args ...any) {
	if w.failure != nil {
		return
	}
	w.failure = &Violation{what, fmt.Sprintf(format, args...), w.now}
	w.note("VIOLATION %s: %s", what, w.failure.Text)
}

func (w *world) at(t int64, do func()) { w.agenda.add(max(t, w.now), do) }

func (w *world) hostNamed(name string) *host { return w.byName[name] }

func (w *world) hostAt(a netip.AddrPort) *host {
	for _, h := range w.hosts {
		if h.addr == a {
			return h
		}
	}
	return nil
}

// groupOf finds the group of an address: the groups are numbered as their VIPs.
func (w *world) groupOf(a netip.Addr) (uint16, bool) {
	for i, v := range w.vips {
		if v == a {
			return uint16(i), true
		}
	}
	return 0, false
}

// build makes the hosts of a run from its seed.
func build(opt Options) (*world, error) {
	w := &world{opt: opt, seed: opt.Seed, byName: map[string]*host{}}
	r := stream(opt.Seed, "world")
	profile, members, paths, groups := drawShape(r.Float64(), r.Float64(), r.Float64(), r.Float64())
	if w.opt.Profile == "" {
		w.opt.Profile = profile
	}
	if w.opt.Members == 0 {
		w.opt.Members = members
	}
	if w.opt.Paths == 0 {
		w.opt.Paths = paths
	}
	if opt.Row != "" {
		groups = 1
	}
	var ok bool
	if w.timing, ok = lease.Profile(w.opt.Profile); !ok {
		return nil, fmt.Errorf("no profile %q", w.opt.Profile)
	}
	w.scale = map[string]float64{"default": 1, "fast": 0.5, "wan": 2.5}[w.opt.Profile]
	var setup []MemberSetup
	for i := range w.opt.Members {
		h := &host{w: w, i: i, gateway: i < (w.opt.Members+1)/2}
		h.name = fmt.Sprintf("gw%d", i+1)
		if !h.gateway {
			h.name = fmt.Sprintf("w%d", i+1-(w.opt.Members+1)/2)
		}
		seed := sha256.Sum256(fmt.Appendf(nil, "key %d %d", opt.Seed, i))
		h.key = ed25519.NewKeyFromSeed(seed[:])
		h.addr = netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:7400", i+1))
		h.mac = [6]byte{2, 0, 0, 0, 0, byte(i + 1)}
		h.sched, h.product, h.guardRnd = stream(opt.Seed, "host "+h.name), stream(opt.Seed, "product "+h.name), stream(opt.Seed, "guard "+h.name)
		h.ppm = drawRate(h, opt.Mode)
		h.wallOff = time.Duration(span(h.sched, 0, 20*time.Second)) - 10*time.Second
		h.disk = newDisk(h)
		setup = append(setup, MemberSetup{Name: h.name, Witness: !h.gateway, Priority: 100 - i, Key: h.key, Address: h.addr.String()})
		w.hosts = append(w.hosts, h)
		w.byName[h.name] = h
	}
	var vips []string
	for i := range groups {
		a := netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", 100+i))
		w.vips = append(w.vips, a)
		vips = append(vips, a.String()+"/24")
	}
	for _, h := range w.hosts {
		var err error
		if h.cfg, err = Configure(h.name, w.opt.Profile, vips, setup); err != nil {
			return nil, err
		}
	}
	w.net = newNetwork(w)
	w.check = newChecks(w)
	w.clients = newClients(w)
	return w, nil
}

func drawShape(p, m, paths, g float64) (profile string, members, ways, groups int) {
	profile, members, ways, groups = "default", 3, 1, 1
	switch {
	case p > 0.9:
		profile = "wan"
	case p > 0.75:
		profile = "fast"
	}
	if m > 0.85 {
		members = 5
	}
	if paths > 0.8 {
		ways = 2
	}
	if g > 0.75 {
		groups = 2
	}
	return profile, members, ways, groups
}

// drawRate draws the error of a host's clock: within rho = 0.10, and often at
// its edges; beyond it in that mode.
func drawRate(h *host, mode string) int64 {
	const rho = million / 10
	x := h.sched.Float64()
	if mode == beyond {
		if x < 0.5 {
			return -3 * rho // slow: a holder that holds for too long
		}
		return 3 * rho // fast: a voter that promises for too short
	}
	switch {
	case x < 0.25:
		return 0
	case x < 0.5:
		return rho
	case x < 0.75:
		return -rho
	}
	return h.sched.Int64N(2*rho+1) - rho
}

// loop carries the world on until it is done.
func (w *world) loop(limit int64) {
	for !w.done && w.failure == nil {
		if w.agenda.first() > limit {
			w.now = limit
			return
		}
		e, _ := w.agenda.next()
		w.now = e.at
		w.events++
		e.do()
	}
}

// trace keeps the last lines of what happened, and writes them only when they
// are wanted.
type trace struct {
	lines [traceLines]line
	n     int
}

const traceLines = 400

type line struct {
	at     int64
	format string
	args   []any
}

func (w *world) note(format string, args ...any) {
	l := line{w.now, format, args}
	if w.opt.Log != nil {
		w.opt.Log(l.String())
	}
	w.trace.lines[w.trace.n%traceLines] = l
	w.trace.n++
}

func (l line) String() string {
	return fmt.Sprintf("%12.6f  ", float64(l.at)/1e9) + fmt.Sprintf(l.format, l.args...)
}

// last returns up to n lines, the newest last.
func (t *trace) last(n int) []string {
	var out []string
	for i := max(0, t.n-min(n, traceLines)); i < t.n; i++ {
		out = append(out, t.lines[i%traceLines].String())
	}
	return out
}

// logger gives a worker its log: nothing unless the trace is wanted.
func (w *world) logger(h *host) *slog.Logger {
	if w.opt.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&logHandler{w: w, h: h})
}

type logHandler struct {
	w *world
	h *host
}

func (l *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (l *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%12.6f    %s: %v %s", float64(l.w.now)/1e9, l.h.name, r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	l.w.opt.Log(b.String())
	return nil
}

func (l *logHandler) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logHandler) WithGroup(string) slog.Handler      { return l }
