package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

const lookEvery = 25 * time.Millisecond

// ErrNotWhole means that a cluster did not become whole in time.
var ErrNotWhole = errors.New("cluster is not whole")

// WaitWhole waits until every member runs and says so: a quorum of all voters,
// every member reachable and not fenced, one leader and one holder that all
// agree on, and the floating addresses on that holder alone. It gives up after
// 30 s; the error says what was missing.
func (e Env) WaitWhole(ctx context.Context) error {
	return e.WaitWholeWithin(ctx, healLimit)
}

// WaitWholeWithin is WaitWhole with a limit of the caller's.
func (e Env) WaitWholeWithin(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		why := missing(e.Cluster)
		if why == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w after %v: %s", ErrNotWhole, limit, why)
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// missing says what a cluster lacks to be whole, "" when nothing.
func missing(c *lab.Cluster) string {
	var first *lab.Status
	var holders []string
	for _, node := range c.Names() {
		if !c.Running(node) {
			return node + " does not run"
		}
		s, err := c.StatusOf(node)
		if err != nil {
			return err.Error()
		}
		if why := unwell(s); why != "" {
			return node + " says: " + why
		}
		if first == nil {
			first = s
		}
		if s.Holder != first.Holder || s.Leader != first.Leader {
			return fmt.Sprintf("%s says holder %q, leader %q; %s says %q, %q", first.Node, first.Holder, first.Leader, node, s.Holder, s.Leader)
		}
		if s.Holds() {
			holders = append(holders, node)
		}
	}
	if len(holders) != 1 || holders[0] != first.Holder {
		return fmt.Sprintf("holder is %q, holding are [%s]", first.Holder, strings.Join(holders, " "))
	}
	return misplaced(c, first.Holder)
}

// unwell says what is wrong in a member's own words, "" when nothing.
func unwell(s *lab.Status) string {
	switch {
	case !s.Quorum.OK:
		return "no quorum"
	case s.Quorum.Reachable < s.Quorum.Voters:
		return fmt.Sprintf("%d of %d voters reachable", s.Quorum.Reachable, s.Quorum.Voters)
	case s.Leader == "":
		return "no leader"
	case s.Holder == "":
		return "no holder"
	case !slices.Contains([]string{"holder", "standby", "witness"}, s.Role):
		return "role " + s.Role
	}
	for _, m := range s.Members {
		switch {
		case m.Fenced:
			return m.Name + " is fenced"
		case m.Maintenance:
			return m.Name + " is in maintenance"
		case !m.Reachable && m.Name != s.Node:
			return m.Name + " is not reachable"
		}
	}
	return ""
}

// misplaced says where the floating address is and should not be, or is not
// and should; "" when all is well.
func misplaced(c *lab.Cluster, holder string) string {
	for _, node := range c.Names() {
		has, err := c.Lab().HasAddress(node, lab.VIP4.Addr())
		switch {
		case err != nil:
			return err.Error()
		case has && node != holder:
			return fmt.Sprintf("%s has the address, %s holds it", node, holder)
		case !has && node == holder:
			return fmt.Sprintf("%s holds the address and does not have it", node)
		}
	}
	return ""
}

// arrange waits until the cluster is whole and brings leader and holder into
// the position that a scenario needs. Leadership does not follow the address,
// so a planned switchover is all it takes.
func (e Env) arrange(ctx context.Context, lead where) (Position, error) {
	if err := e.WaitWhole(ctx); err != nil {
		return Position{}, err
	}
	deadline := time.Now().Add(healLimit)
	for {
		at, err := e.position()
		if err == nil {
			wanted := at.Holder
			switch {
			case lead == together && at.Leader == at.Spare, lead == apart && at.Leader == at.Holder:
				wanted = at.Spare
			}
			if wanted == at.Holder {
				return at, nil
			}
			err = e.Switch(ctx, wanted)
		}
		if err != nil && time.Now().After(deadline) {
			return at, err
		}
		if err := sleep(ctx, 10*lookEvery); err != nil {
			return at, err
		}
		if err := e.WaitWhole(ctx); err != nil {
			return at, err
		}
	}
}

// position reads who holds and who leads.
func (e Env) position() (Position, error) {
	at := Position{Holder: e.Cluster.Holder(), Leader: e.Cluster.Leader()}
	if at.Holder == "" || at.Leader == "" {
		return at, fmt.Errorf("holder %q, leader %q: nobody, or not agreed on", at.Holder, at.Leader)
	}
	for _, n := range e.Cluster.Lab().Members() {
		if n.Role == lab.Gateway && n.Name != at.Holder {
			at.Spare = n.Name
		}
	}
	return at, nil
}

// Switch moves the address to a gateway by the command that an operator uses.
func (e Env) Switch(ctx context.Context, to string) error {
	out, err := e.Cluster.RunCLI(ctx, to, "failover", "--to", to)
	if err != nil {
		return err
	}
	if out.Code != 0 {
		return fmt.Errorf("failover --to %s: exit code %d: %s", to, out.Code, strings.TrimSpace(out.Stderr))
	}
	return nil
}
