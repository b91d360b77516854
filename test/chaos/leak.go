package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// processesOfMember is what a member that runs consists of: guard and worker.
const processesOfMember = 2

// leaked tells when there are more processes on a node than a member has.
func leaked(c *lab.Cluster) error {
	for _, node := range c.Names() {
		found, err := processesOn(c.Lab().Namespace(node))
		if err != nil {
			return err
		}
		if len(found) != processesOfMember {
			return fmt.Errorf("%s has %d processes, not %d: %s", node, len(found), processesOfMember, strings.Join(found, "; "))
		}
	}
	return nil
}

// processesOn lists the processes in a network namespace, as pid and command.
func processesOn(namespace string) ([]string, error) {
	var want syscall.Stat_t
	if err := syscall.Stat(filepath.Join("/run/netns", namespace), &want); err != nil {
		return nil, fmt.Errorf("find namespace %s: %w", namespace, err)
	}
	spaces, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, path := range spaces {
		var st syscall.Stat_t
		if syscall.Stat(path, &st) != nil || st.Ino != want.Ino {
			continue // ended meanwhile, or elsewhere
		}
		pid := strings.Split(path, "/")[2]
		if pid == fmt.Sprint(os.Getpid()) {
			continue // a thread of ours on a visit
		}
		command, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")) // it may have ended: the pid is enough
		found = append(found, pid+" "+strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found, nil
}
