package main

import (
	"errors"

	"github.com/holdfast-ha/holdfast/internal/config"
)

type runCmd struct{}

// runGuard runs the guard until the command is told to stop. The file that
// wires the daemon sets it.
var runGuard func(a *app, c *config.Config) error

func (c *runCmd) Run(a *app) error {
	parsed, err := loadConfig(a.cli.ConfigFile)
	if err != nil {
		return err
	}
	if runGuard == nil {
		return errors.New("this build has no daemon")
	}
	return runGuard(a, parsed)
}
