package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
)

// memberInterval is how often a change that takes time is looked at.
const memberInterval = time.Second

type memberCmd struct {
	List    memberListCmd    `cmd:"" help:"Show the members, and how this node's file differs from the cluster."`
	Add     memberAddCmd     `cmd:"" help:"Take a member of the configuration file into the cluster; it votes when it has caught up."`
	Remove  memberRemoveCmd  `cmd:"" help:"Take a member out of the cluster."`
	Replace memberReplaceCmd `cmd:"" help:"Let another machine, with the key that the file has now, take the place of a member."`
}

type memberListCmd struct{}

func (c *memberListCmd) Run(a *app) error {
	client := a.client()
	defer client.Close()
	list, err := client.Members(a.ctx)
	if err != nil {
		return fmt.Errorf("member list: %w", err)
	}
	return a.show(list, "%s", memberText(list, terminal(a.stdout) && colourful()))
}

type memberAddCmd struct {
	Name string `arg:"" predictor:"node" help:"Member, as the configuration files of all members name it."`
}

func (c *memberAddCmd) Run(a *app) error { return changeMember(a, "add", c.Name, "added") }

type memberRemoveCmd struct {
	Name string `arg:"" predictor:"node" help:"Member."`
}

func (c *memberRemoveCmd) Run(a *app) error { return changeMember(a, "remove", c.Name, "removed") }

type memberReplaceCmd struct {
	Name string `arg:"" predictor:"node" help:"Member whose machine is another one."`
}

func (c *memberReplaceCmd) Run(a *app) error {
	return changeMember(a, "replace", c.Name, "replaced")
}

// changeMember asks for a change and waits for it; on a terminal it says what
// the change waits for.
func changeMember(a *app, op, name, done string) error {
	client := a.client()
	defer client.Close()
	stop := func() {}
	if !a.cli.Quiet && terminal(a.stderr) {
		stop = watchMembers(a, client, memberInterval)
	}
	result, err := client.ChangeMember(a.ctx, control.MemberRequest{Op: op, Name: name})
	stop()
	if err != nil {
		return fmt.Errorf("member %s %s: %w", op, name, err)
	}
	return a.show(result, "%s is %s, configuration %d\n", result.Name, done, result.Index)
}

// watchMembers prints what changes of members wait for, each text once, until
// the function it returns is called.
func watchMembers(a *app, client *control.Client, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(a.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		last := ""
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			list, err := client.Members(ctx)
			if err != nil || list.Waiting == "" || list.Waiting == last {
				continue // the change itself says what is wrong
			}
			last = list.Waiting
			if _, err := fmt.Fprintln(a.stderr, last); err != nil {
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// memberText is the list for people.
func memberText(list control.MemberList, colours bool) string {
	g := &page{colours: colours}
	rows := make([][]cell, 0, len(list.Members))
	for _, m := range list.Members {
		rows = append(rows, []cell{p("%s", m.Name), p("%s", m.Role), placeCell(m.State), judge(m.Connected, "connected", "not connected"),
			p("%s", orDash(m.RaftID)), matchCell(m.Match), judge(m.InFile, "yes", "NO")})
	}
	g.table([]string{"member", "role", "state", "connection", "raft id", "match", "in file"}, rows)
	var out strings.Builder
	out.WriteString(strings.TrimPrefix(g.out.String(), "\n"))
	if list.Waiting != "" {
		fmt.Fprintf(&out, "\nwaiting: %s\n", list.Waiting)
	}
	if len(list.Differences) > 0 {
		out.WriteString("\nthe file differs from the cluster:\n")
	}
	for _, d := range list.Differences {
		fmt.Fprintf(&out, "  %s\n", d)
	}
	return out.String()
}

// placeCell tones a place in the configuration: only voters count.
func placeCell(state string) cell {
	if state == "voter" {
		return cell{state, good}
	}
	return cell{state, warn}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// matchCell is how far a member's log is; only the leader knows.
func matchCell(match uint64) cell {
	if match == 0 {
		return p("-")
	}
	return p("%d", match)
}
