package main

import (
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/control"
)

type failoverCmd struct {
	To    string `placeholder:"NODE" predictor:"node" help:"Node to move to (default: the best one)."`
	Group string `placeholder:"GROUP" help:"VIP group to move (default: the only one)."`
}

func (c *failoverCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	result, err := client.Failover(a.ctx, control.FailoverRequest{To: c.To, Group: c.Group})
	if err != nil {
		return fmt.Errorf("failover: %w", err)
	}
	from := result.From
	if from == "" {
		from = "nobody"
	}
	return a.show(result, "group %s moved from %s to %s: gap %.1f ms, epoch %d\n",
		result.Group, from, result.Holder, result.GapMs, result.Epoch)
}
