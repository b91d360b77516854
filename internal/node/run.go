package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/vip"
)

// Options of a worker.
type Options struct {
	Config *config.Config
	// Source is the file that a reload reads; Config came from a copy of it.
	Source      string
	Incarnation uint64
	// GateFiles is how many descriptors of gate maps are inherited, from guard.GateFD on.
	GateFiles int
	GateMode  string
	Version   string
	Logger    *slog.Logger
	// Level changes with a reload; may be nil.
	Level *slog.LevelVar
}

// Run is the worker process from start to exit. It returns nil after a planned
// stop. An error that wraps wal.ErrCorrupt or is a *storage.DamageError means
// that the data directory failed an integrity check at the start, and that
// another start would find no better one.
func Run(ctx context.Context, o Options) error {
	w := newWorker(ctx, o)
	defer w.cancel()
	link, err := guard.NewLink()
	if err != nil {
		return err
	}
	defer link.Close()
	if err := w.openOnHost(link, o.GateFiles); err != nil {
		w.close()
		return err
	}
	return w.end(repairable(w.loop(ctx)))
}

// end closes everything and returns why the worker ends.
func (w *worker) end(err error) error {
	w.close()
	if w.keptWrong != nil {
		return w.keptWrong // another start would vote with a state that is wrong
	}
	return err
}

// openOnHost opens the worker on the machine that this process runs on.
func (w *worker) openOnHost(link Link, gateFiles int) error {
	h := Host{
		Clock: clock.System{}, Wall: time.Now, Sleep: time.Sleep,
		Random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		FS:     vfs.OS, Link: link, Mesh: w.runMesh, Go: w.jobs.Go, Queue: w.runQueue,
	}
	var err error
	if h.Key, err = transport.LoadKey(w.cfg.Node.KeyFile); err != nil {
		return err
	}
	if w.self.Role != config.Witness {
		gate, err := takeGate(gateFiles)
		if err != nil {
			return err
		}
		w.gate = gate // so that it is closed whatever follows
		h.Gate = gate
		vips, err := vip.New()
		if err != nil {
			return err
		}
		w.vips, h.VIPs = vips, vips
	}
	h.Hooks = hooks.New(w.log, hooksOf(w.cfg))
	if err := w.open(h); err != nil {
		return err
	}
	if err := w.openPorts(); err != nil {
		return err
	}
	return w.watch()
}

// takeGate takes over the gate's maps from the guard.
func takeGate(n int) (*netfence.Gate, error) {
	var files []*os.File
	for i := range n {
		files = append(files, os.NewFile(uintptr(guard.GateFD+i), "gate"))
	}
	gate, err := netfence.OpenGate(files)
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return gate, err
}

func (w *worker) runMesh(c transport.Config) (Mesh, error) {
	mesh, err := transport.New(c)
	if err != nil {
		return nil, err
	}
	w.jobs.Go(func() {
		if err := mesh.Run(w.stopCtx); err != nil && !errors.Is(err, transport.ErrClosed) {
			w.post(func(int64) { w.fail(err) })
		}
	})
	return mesh, nil
}

// jobQueue has one goroutine that does the jobs.
type jobQueue chan func()

func (w *worker) runQueue(limit int) Queue {
	q := make(jobQueue, limit)
	w.jobs.Go(func() {
		for f := range q {
			f()
		}
	})
	return q
}

// Submit implements Queue.
func (q jobQueue) Submit(job func()) bool {
	select {
	case q <- job:
		return true
	default:
		return false
	}
}

// Close implements Queue.
func (q jobQueue) Close() { close(q) }

// watch starts the goroutines that bring the loop news of the kernel and the
// disk. All end with stopCtx.
func (w *worker) watch() error {
	if w.vips == nil {
		return nil
	}
	events, err := w.vips.Watch(w.stopCtx)
	if err != nil {
		return err
	}
	w.jobs.Go(func() {
		for e := range events {
			w.mustPost(func(now int64) { w.vipEvent(now, e) })
		}
	})
	w.jobs.Go(func() {
		if err := w.gate.Events(w.stopCtx, func(e netfence.Event) {
			w.post(func(now int64) { w.gateEvent(now, e) })
		}); err != nil {
			w.log.Error("gate events end", "error", err)
		}
	})
	return nil
}

// openPorts serves the control socket and the status port.
func (w *worker) openPorts() error {
	server, err := control.Listen(control.Options{Path: w.cfg.SocketPath(), Backend: backend{w}, Logger: w.log})
	if err != nil {
		return err
	}
	w.jobs.Go(func() {
		if err := server.Run(w.stopCtx); err != nil {
			w.log.Error("control socket ends", "error", err)
		}
	})
	return w.openStatus(w.cfg.Status.Listen)
}
