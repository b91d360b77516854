package main

import (
	"io"
	"log/slog"

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
