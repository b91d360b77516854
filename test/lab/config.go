package lab

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/BurntSushi/toml"
)

// Table is a table of a configuration file. Arrays of tables are []Table.
type Table = map[string]any

// VIP is a floating address of a cluster.
type VIP struct {
	Prefix    netip.Prefix
	Interface string // "eth0" when empty
	Group     string // "default" when empty
	Scope     string // "vip" when empty
}

// Timing is a profile by hand.
type Timing struct{ Beat, Promise, Epsilon time.Duration }

// ClusterOptions say how the members of a cluster are configured.
type ClusterOptions struct {
	// Binary is the program; when empty, Binary() finds or builds it.
	Binary string
	// Profile is default, fast or wan; default when empty.
	Profile string
	// Timing replaces the profile when its beat is not 0.
	Timing Timing
	// VIPs are VIP4 on eth0 when empty.
	VIPs []VIP
	// PreAcquireHook gives each gateway a hook that FailPreAcquire can make
	// fail.
	PreAcquireHook bool
	// Found names the members that found the cluster, all of the lab when
	// empty. Admit makes members of the others later.
	Found []string
	// Disks gives members a disk of their own for their data, of so many
	// bytes: FillDisk, HangDisk and SlowDisk work on these.
	Disks map[string]int64
	// Config may change a member's configuration before it is written.
	Config func(n *Node, cfg Table)
	// Env has further environment variables ("KEY=value") of the members.
	Env []string
}

// PeerPort is the port that members listen on.
const PeerPort = 7400

func (o *ClusterOptions) fill() {
	if o.Profile == "" {
		o.Profile = "default"
	}
	if len(o.VIPs) == 0 {
		o.VIPs = []VIP{{Prefix: VIP4}}
	}
	for i := range o.VIPs {
		v := &o.VIPs[i]
		for _, d := range []struct {
			field *string
			value string
		}{{&v.Interface, "eth0"}, {&v.Group, "default"}, {&v.Scope, "vip"}} {
			if *d.field == "" {
				*d.field = d.value
			}
		}
	}
}

// configure returns a member's configuration.
func (c *Cluster) configure(m *member) Table {
	cfg := Table{
		"cluster": "lab-" + c.lab.ID,
		"node": Table{
			"name": m.node.Name, "data_dir": m.dataDir(), "runtime_dir": m.runtimeDir(), "key_file": m.keyFile(),
		},
		"member": c.memberTables(),
		"vip":    c.vipTables(),
		"timing": Table{"profile": c.options.Profile},
		"status": Table{"listen": "127.0.0.1:7401"},
		"log":    Table{"level": "debug", "format": "text"},
	}
	if t := c.options.Timing; t.Beat != 0 {
		cfg["timing"] = Table{"beat": t.Beat.String(), "promise": t.Promise.String(), "epsilon": t.Epsilon.String()}
	}
	if c.options.PreAcquireHook && m.node.Role == Gateway {
		cfg["hook"] = []Table{{"phase": "pre-acquire", "command": []string{m.hookFile()}, "timeout": "5s"}}
	}
	if c.options.Config != nil {
		c.options.Config(m.node, cfg)
	}
	return cfg
}

func (c *Cluster) memberTables() []Table {
	var tables []Table
	for _, m := range c.members {
		var addrs []string
		for _, nic := range m.node.NICs {
			if nic.Name != "eth1" { // a second interface on the LAN, not a second path
				addrs = append(addrs, net.JoinHostPort(nic.IPv4.Addr().String(), strconv.Itoa(PeerPort)))
			}
		}
		tables = append(tables, Table{
			"name": m.node.Name, "addresses": addrs, "public_key": m.public, "role": string(m.node.Role),
		})
	}
	return tables
}

func (c *Cluster) vipTables() []Table {
	var tables []Table
	for _, v := range c.options.VIPs {
		tables = append(tables, Table{
			"address": v.Prefix.String(), "interface": v.Interface, "group": v.Group, "scope": v.Scope,
		})
	}
	return tables
}

// WriteConfig writes a member's configuration anew, changed by change, such as
// before a reload. Later starts use it too.
func (c *Cluster) WriteConfig(node string, change func(cfg Table)) error {
	m, err := c.member(node)
	if err != nil {
		return err
	}
	cfg := c.configure(m)
	if change != nil {
		change(cfg)
	}
	var buf bytes.Buffer
	if err := toml.NewEncoder(&buf).Encode(cfg); err != nil {
		return fmt.Errorf("encode configuration of %s: %w", node, err)
	}
	if err := os.WriteFile(m.configFile(), buf.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write configuration of %s: %w", node, err)
	}
	return nil
}

// ConfigFile returns the path of a member's configuration.
func (c *Cluster) ConfigFile(node string) string {
	return filepath.Join(c.lab.Dir, node, "holdfast.toml")
}

// DataDir returns the path of a member's data directory.
func (c *Cluster) DataDir(node string) string {
	m := &member{dir: filepath.Join(c.lab.Dir, node), disk: c.options.Disks[node]}
	return m.dataDir()
}

// RuntimeDir returns the path of a member's runtime directory.
func (c *Cluster) RuntimeDir(node string) string { return filepath.Join(c.lab.Dir, node, "run") }

func (m *member) dataDir() string {
	if m.disk != 0 {
		return filepath.Join(m.mount(), "data")
	}
	return filepath.Join(m.dir, "data")
}

func (m *member) runtimeDir() string { return filepath.Join(m.dir, "run") }
func (m *member) socket() string     { return filepath.Join(m.dir, "run", "control.sock") }
func (m *member) keyFile() string    { return filepath.Join(m.dir, "node.key") }
func (m *member) configFile() string { return filepath.Join(m.dir, "holdfast.toml") }
func (m *member) hookFile() string   { return filepath.Join(m.dir, "pre-acquire") }
func (m *member) failFile() string   { return filepath.Join(m.dir, "fail-pre-acquire") }
