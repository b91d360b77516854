package main

import (
	"errors"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/node"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/wal"
)

type workerCmd struct {
	Incarnation uint64 `required:"" help:"Number that the guard drew for this start."`
	Source      string `required:"" help:"File that a reload reads; --config names a copy of it."`
	GateFiles   int    `help:"How many descriptors of gate maps are inherited."`
	GateMode    string `help:"How the gate is attached, for status."`
}

// Run is the worker process, the child of run. Its exit code speaks to the
// guard.
func (c *workerCmd) Run(a *app) error {
	err := c.run(a)
	if err == nil {
		return nil
	}
	code, hint := classify(err)
	switch code {
	case exitUsage:
		code = guard.ExitConfig
	case exitIntegrity:
		code = guard.ExitIntegrity
	}
	return &commandError{code: code, err: err, hint: hint}
}

func (c *workerCmd) run(a *app) error {
	parsed, err := loadConfig(a.cli.ConfigFile)
	if err != nil {
		return err
	}
	oneProcessor()
	tightHeap()
	logger, level := newLogger(a.stderr, parsed.Log, "worker")
	err = node.Run(a.ctx, node.Options{
		Config: parsed, Source: c.Source, Incarnation: c.Incarnation, GateFiles: c.GateFiles, GateMode: c.GateMode,
		Version: buildInfo().Version, Logger: logger, Level: level,
	})
	var damage *storage.DamageError
	if errors.Is(err, wal.ErrCorrupt) || errors.As(err, &damage) {
		return &commandError{code: exitIntegrity, err: err, hint: "what was damaged is kept; the other members keep the cluster alive; docs/operations.md, \"A member has lost its data\""}
	}
	return daemonError(err)
}
