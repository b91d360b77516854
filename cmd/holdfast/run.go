package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/node"
	"github.com/holdfast-ha/holdfast/netfence"
)

type runCmd struct{}

// Run is the guard process: it starts the worker, and ends after a planned
// stop or when no worker can be started.
func (c *runCmd) Run(a *app) error {
	parsed, err := loadConfig(a.cli.ConfigFile)
	if err != nil {
		return err
	}
	oneProcessor()
	logger, _ := newLogger(a.stderr, parsed.Log, "guard")
	for _, w := range parsed.Warnings() {
		logger.Warn(w)
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	reload := make(chan struct{})
	go func() {
		for {
			select {
			case <-hangup:
			case <-a.ctx.Done():
				return
			}
			select {
			case reload <- struct{}{}:
			case <-a.ctx.Done():
				return
			}
		}
	}()
	err = node.RunGuard(a.ctx, node.GuardOptions{
		Config: parsed, Source: a.cli.ConfigFile, Command: []string{"/proc/self/exe"}, Reload: reload, Logger: logger,
	})
	return daemonError(err)
}

// daemonError gives the failures of the daemon their exit code and hint.
func daemonError(err error) error {
	var worker *guard.WorkerError
	var hinted *node.HintError
	var gate *netfence.HintError
	switch {
	case errors.As(err, &worker):
		code := exitUsage
		if worker.Code == guard.ExitIntegrity {
			code = exitIntegrity
		}
		return &commandError{code: code, err: err, hint: workerHint(code)}
	case errors.As(err, &hinted):
		return &commandError{code: exitFailed, err: err, hint: hinted.Hint}
	case errors.As(err, &gate):
		return &commandError{code: exitFailed, err: err, hint: gate.Hint}
	case errors.Is(err, guard.ErrRunning):
		return &commandError{code: exitFailed, err: err, hint: "holdfast status shows the one that runs"}
	}
	return err
}

func workerHint(code int) string {
	if code == exitIntegrity {
		return "holdfast wal verify <data_dir>/wal shows what is damaged; the other members keep the cluster alive"
	}
	return "see the lines above"
}
