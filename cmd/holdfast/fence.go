package main

import (
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/control"
)

type fenceCmd struct {
	Node string `arg:"" predictor:"node" help:"Node to fence."`
}

func (c *fenceCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	result, err := client.Fence(a.ctx, control.NodeRequest{Node: c.Node})
	if err != nil {
		return fmt.Errorf("fence %s: %w", c.Node, err)
	}
	return a.show(result, "%s is fenced%s\n", result.Node, unchanged(result))
}

type unfenceCmd struct {
	Node string `arg:"" predictor:"node" help:"Node to let back in."`
}

func (c *unfenceCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	result, err := client.Unfence(a.ctx, control.NodeRequest{Node: c.Node})
	if err != nil {
		return fmt.Errorf("unfence %s: %w", c.Node, err)
	}
	return a.show(result, "%s is not fenced%s\n", result.Node, unchanged(result))
}
