package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Admit makes a member of a node of the lab that ClusterOptions.Found left
// out: directories, key and configuration. It writes no other member's file
// (WriteConfigs does) and starts nothing.
func (c *Cluster) Admit(node string) error {
	n, err := c.lab.Node(node)
	if err != nil {
		return err
	}
	if n.Role == Client {
		return fmt.Errorf("admit %s: it is a client", node)
	}
	if _, err := c.member(node); err == nil {
		return fmt.Errorf("admit %s: it is a member", node)
	}
	m := c.newMember(n)
	if err := c.install(m); err != nil {
		return fmt.Errorf("install %s: %w", node, err)
	}
	c.members = append(slices.Clone(c.members), m)
	return c.WriteConfig(node, nil)
}

// Expel forgets a member, which must not run. Its files stay, and since they
// would be in the way Admit does not take it back.
func (c *Cluster) Expel(node string) error {
	m, err := c.member(node)
	if err != nil {
		return err
	}
	if m.guard() != nil {
		return fmt.Errorf("expel %s: it runs", node)
	}
	c.members = slices.DeleteFunc(slices.Clone(c.members), func(o *member) bool { return o == m })
	return nil
}

// Reinstall replaces a member's machine: another key, empty data and runtime
// directories, the same name and addresses. The member must not run. Only its
// own file is written.
func (c *Cluster) Reinstall(node string) error {
	if _, err := c.WipeData(node); err != nil {
		return err
	}
	m, err := c.member(node)
	if err != nil {
		return err
	}
	if err := c.forgetKernel(m); err != nil {
		return fmt.Errorf("reinstall %s: %w", node, err)
	}
	// Also what keygen may leave beside the key.
	names, err := filepath.Glob(m.keyFile() + "*")
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return fmt.Errorf("reinstall %s: %w", node, err)
	}
	if err := c.makeKey(m); err != nil {
		return fmt.Errorf("reinstall %s: %w", node, err)
	}
	return c.WriteConfig(node, nil)
}

// WriteConfigs writes every member's file as it was made at first, with the
// members that there are now.
func (c *Cluster) WriteConfigs() error {
	for _, m := range c.members {
		if err := c.WriteConfig(m.node.Name, nil); err != nil {
			return err
		}
	}
	return nil
}

// Reload makes every running member read its file again.
func (c *Cluster) Reload(ctx context.Context) error {
	for _, m := range c.members {
		if m.guard() == nil {
			continue
		}
		out, err := c.RunCLI(ctx, m.node.Name, "reload")
		if err != nil {
			return err
		}
		if out.Code != 0 {
			return fmt.Errorf("reload %s: exit code %d: %s", m.node.Name, out.Code, strings.TrimSpace(out.Stderr))
		}
	}
	return nil
}

// Socket returns the path of a member's control socket, which can be reached
// from every network namespace.
func (c *Cluster) Socket(node string) string {
	return filepath.Join(c.RuntimeDir(node), "control.sock")
}
