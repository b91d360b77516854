package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/status"
)

// watchInterval is how often --watch asks again.
const watchInterval = time.Second

// clearScreen moves home and clears to the end (ECMA-48).
const clearScreen = "\x1b[H\x1b[2J\x1b[3J"

type statusCmd struct {
	Watch bool `short:"w" help:"Ask again every second until interrupted; with --json one line each."`
}

func (c *statusCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	if c.Watch {
		return c.watch(a, client)
	}
	report, err := client.Status(a.ctx)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if a.cli.Quiet {
		return nil
	}
	if a.cli.JSON {
		return a.printJSON(report)
	}
	return c.table(a, report)
}

func (c *statusCmd) table(a *app, report status.Report) error {
	_, err := io.WriteString(a.stdout, statusText(report, terminal(a.stdout) && colourful()))
	return wrapPrint(err)
}

// watch shows one report after the other. On a terminal it goes on while the
// daemon is away, as during an upgrade; in a pipe that ends it.
func (c *statusCmd) watch(a *app, client *control.Client) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		err := c.watchOnce(a, client)
		if a.ctx.Err() != nil {
			return nil // the interrupt is how watching ends
		}
		if err != nil {
			return err
		}
		select {
		case <-a.ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *statusCmd) watchOnce(a *app, client *control.Client) error {
	screen := terminal(a.stdout) && !a.cli.JSON
	report, err := client.Status(a.ctx)
	var away *control.UnreachableError
	switch {
	case errors.Is(err, context.Canceled):
		return nil
	case errors.As(err, &away) && screen:
		_, err = fmt.Fprintf(a.stdout, "%sholdfast: %s\n", clearScreen, oneLine(err.Error()))
		return wrapPrint(err)
	case err != nil:
		return fmt.Errorf("status: %w", err)
	case a.cli.Quiet:
		return nil
	case a.cli.JSON:
		return wrapPrint(json.NewEncoder(a.stdout).Encode(report))
	}
	if screen {
		if _, err := io.WriteString(a.stdout, clearScreen); err != nil {
			return wrapPrint(err)
		}
	}
	return c.table(a, report)
}
