package main

import (
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/holdfast-ha/holdfast/internal/config"
)

// newLogger writes in the configured form: auto is text on a terminal and JSON
// elsewhere. The level can be moved by a reload.
func newLogger(w io.Writer, c config.Log, process string) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(c.Level)
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewJSONHandler(w, options)
	if c.Format == "text" || (c.Format == "auto" && terminal(w)) {
		handler = slog.NewTextHandler(w, options)
	}
	return slog.New(handler).With("process", process), level
}

// oneProcessor makes a daemon run its goroutines on one CPU at a time. It wakes
// a hundred times a second for some microseconds; handing each piece of that
// to another CPU costs more than the work itself. GOMAXPROCS overrides.
func oneProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// tightHeap makes the collector run when the heap has grown by half instead of
// to double: the state is most of it, lives long, and is to fit three times its
// size. GOGC overrides.
func tightHeap() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}
