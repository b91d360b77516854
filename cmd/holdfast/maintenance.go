package main

import (
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/control"
)

type maintenanceCmd struct {
	State string `arg:"" enum:"on,off" help:"on: not eligible to hold; off: eligible again."`
	Node  string `arg:"" optional:"" predictor:"node" help:"Node (default: this one)."`
}

func (c *maintenanceCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	result, err := client.Maintenance(a.ctx, control.MaintenanceRequest{Node: c.Node, On: c.State == "on"})
	if err != nil {
		return fmt.Errorf("maintenance %s: %w", c.State, err)
	}
	return a.show(result, "maintenance of %s is %s%s\n", result.Node, c.State, unchanged(result))
}

// unchanged says so when a command found what it was to bring about.
func unchanged(r control.NodeResult) string {
	if r.Index == 0 {
		return " (it was already)"
	}
	return ""
}
