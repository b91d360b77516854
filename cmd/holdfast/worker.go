package main

import (
	"errors"

	"github.com/holdfast-ha/holdfast/internal/config"
)

type workerCmd struct {
	Incarnation uint64 `required:"" help:"Number that the guard drew for this start."`
}

// runWorker runs the worker until the command is told to stop. The file that
// wires the daemon sets it.
var runWorker func(a *app, c *config.Config, incarnation uint64) error

func (c *workerCmd) Run(a *app) error {
	parsed, err := loadConfig(a.cli.ConfigFile)
	if err != nil {
		return err
	}
	if runWorker == nil {
		return errors.New("this build has no daemon")
	}
	return runWorker(a, parsed, c.Incarnation)
}
