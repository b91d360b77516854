package main

import (
	"fmt"
	"strings"

	"github.com/holdfast-ha/holdfast/internal/control"
)

type reloadCmd struct{}

func (c *reloadCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	result, err := client.Reload(a.ctx)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if result.Changes == nil {
		result.Changes = []control.Change{}
	}
	return a.show(result, "%s", reloadText(result.Changes))
}

func reloadText(changes []control.Change) string {
	if len(changes) == 0 {
		return "nothing changed\n"
	}
	var out strings.Builder
	for _, c := range changes {
		switch {
		case c.Old == "":
			fmt.Fprintf(&out, "%s: added: %s\n", c.Key, c.New)
		case c.New == "":
			fmt.Fprintf(&out, "%s: removed: %s\n", c.Key, c.Old)
		default:
			fmt.Fprintf(&out, "%s: %s -> %s\n", c.Key, c.Old, c.New)
		}
	}
	return out.String()
}
