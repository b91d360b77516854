package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Change is one difference between the configuration in force and a new one.
type Change struct {
	Key  string // such as log.level, vip[10.77.0.100].interface or member[gw2].priority
	Old  string // "" when it is new
	New  string // "" when it is removed
	Live bool   // can be applied while running
	Why  string // of a change that cannot: why, and what to do instead
}

// Why a change is refused while running.
const (
	whyCluster = "is the identity of the cluster: found a new cluster instead"
	whyNode    = "is read when the daemon starts: restart it on this node"
	whyMember  = "is committed state of the cluster: holdfast member remove and add the member to change it"
	whySelf    = "is this node's own entry, read when the daemon starts: restart it on this node"
	whyTiming  = "all members run one timing, and promises given under the old one still count: " +
		"stop the cluster, change every member's file and start it again"
	whyState = "is read when the daemon starts: restart it on this node"
	whyMove  = "would move an address that is in use: remove the [[vip]], reload, then add it as you want it"
)

// Diff lists what differs from one valid configuration to another, in a fixed
// order. The new one can be applied while running when every change is Live.
func Diff(from, to *Config) []Change {
	d := &differ{}
	d.refuse("cluster", from.Cluster, to.Cluster, whyCluster)
	d.refuse("node.name", from.Node.Name, to.Node.Name, whyNode)
	d.refuse("node.data_dir", from.Node.DataDir, to.Node.DataDir, whyNode)
	d.refuse("node.runtime_dir", from.Node.RuntimeDir, to.Node.RuntimeDir, whyNode)
	d.refuse("node.key_file", from.Node.KeyFile, to.Node.KeyFile, whyNode)
	d.members(from.Node.Name, from.Members, to.Members)
	d.vips(from.VIPs, to.VIPs)
	d.timing(from.Timing, to.Timing)
	d.live("placement.preempt", from.Placement.Preempt, to.Placement.Preempt)
	d.live("placement.preempt_delay", short(from.Placement.PreemptDelay), short(to.Placement.PreemptDelay))
	d.live("placement.fence_delay", short(from.Placement.FenceDelay), short(to.Placement.FenceDelay))
	d.live("status.listen", off(from.Status.Listen), off(to.Status.Listen))
	d.refuse("state.max_bytes", sizeText(from.State.MaxBytes), sizeText(to.State.MaxBytes), whyState)
	d.live("state.snapshot_bytes", sizeText(from.State.SnapshotBytes), sizeText(to.State.SnapshotBytes))
	d.live("state.scrub_every", short(from.State.ScrubEvery), short(to.State.ScrubEvery))
	d.live("state.slow_fsync", short(from.State.SlowFsync), short(to.State.SlowFsync))
	d.buckets(from.Buckets, to.Buckets)
	d.live("log.level", levelText(from.Log), levelText(to.Log))
	d.live("log.format", from.Log.Format, to.Log.Format)
	if !reflect.DeepEqual(from.Hooks, to.Hooks) {
		d.live("hook", hooksText(from.Hooks), hooksText(to.Hooks))
	}
	return d.changes
}

// Refused keeps the changes that cannot be applied while running.
func Refused(changes []Change) []Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Live })
}

type differ struct{ changes []Change }

func (d *differ) live(key string, from, to any) {
	if from != to {
		d.changes = append(d.changes, Change{Key: key, Old: fmt.Sprint(from), New: fmt.Sprint(to), Live: true})
	}
}

func (d *differ) refuse(key string, from, to any, why string) {
	if from != to {
		d.changes = append(d.changes, Change{Key: key, Old: fmt.Sprint(from), New: fmt.Sprint(to), Why: why})
	}
}

// members compares the lists of members. Who is known by the file may change
// while running: the daemon then reaches it, and who belongs to the cluster is
// changed by the command "holdfast member" alone.
func (d *differ) members(self string, from, to []Member) {
	for _, old := range from {
		i := slices.IndexFunc(to, func(m Member) bool { return m.Name == old.Name })
		key := "member[" + old.Name + "]"
		if i < 0 {
			d.changes = append(d.changes, Change{Key: key, Old: addressesText(old), Live: true})
			continue
		}
		if old.Name == self {
			d.refuse(key+".addresses", addressesText(old), addressesText(to[i]), whySelf)
			d.refuse(key+".public_key", keyText(old), keyText(to[i]), whySelf)
		} else {
			d.live(key+".addresses", addressesText(old), addressesText(to[i]))
			d.live(key+".public_key", keyText(old), keyText(to[i]))
		}
		d.refuse(key+".role", old.Role, to[i].Role, whyMember)
		d.refuse(key+".priority", old.Priority, to[i].Priority, whyMember)
	}
	for _, m := range to {
		if !slices.ContainsFunc(from, func(old Member) bool { return old.Name == m.Name }) {
			d.changes = append(d.changes, Change{Key: "member[" + m.Name + "]", New: addressesText(m), Live: true})
		}
	}
}

func (d *differ) vips(from, to []VIP) {
	same := func(a VIP) func(VIP) bool {
		return func(b VIP) bool { return a.Address.Addr() == b.Address.Addr() }
	}
	for _, old := range from {
		key := "vip[" + old.Address.Addr().String() + "]"
		i := slices.IndexFunc(to, same(old))
		if i < 0 {
			d.changes = append(d.changes, Change{Key: key, Old: vipText(old), Live: true})
			continue
		}
		d.refuse(key+".address", old.Address, to[i].Address, whyMove)
		d.live(key+".interface", old.Interface, to[i].Interface)
		d.refuse(key+".group", old.Group, to[i].Group, whyMove)
		d.refuse(key+".scope", old.Scope, to[i].Scope, whyMove)
	}
	for _, v := range to {
		if !slices.ContainsFunc(from, same(v)) {
			d.changes = append(d.changes, Change{
				Key: "vip[" + v.Address.Addr().String() + "]", New: vipText(v), Live: true,
			})
		}
	}
}

func (d *differ) timing(from, to Timing) {
	if from.Timing == to.Timing {
		return // the same values by name or by hand are the same timing
	}
	if from.Profile != to.Profile {
		d.refuse("timing.profile", profileText(from), profileText(to), whyTiming)
		return
	}
	d.refuse("timing.beat", short(from.Beat), short(to.Beat), whyTiming)
	d.refuse("timing.promise", short(from.Promise), short(to.Promise), whyTiming)
	d.refuse("timing.epsilon", short(from.Epsilon), short(to.Epsilon), whyTiming)
}

func (d *differ) buckets(from, to []Bucket) {
	for _, old := range from {
		i := slices.IndexFunc(to, func(b Bucket) bool { return b.Name == old.Name })
		if i < 0 {
			d.changes = append(d.changes, Change{Key: "bucket[" + old.Name + "]", Old: short(old.RPO), Live: true})
			continue
		}
		d.live("bucket["+old.Name+"].rpo", short(old.RPO), short(to[i].RPO))
	}
	for _, b := range to {
		if !slices.ContainsFunc(from, func(old Bucket) bool { return old.Name == b.Name }) {
			d.changes = append(d.changes, Change{Key: "bucket[" + b.Name + "]", New: short(b.RPO), Live: true})
		}
	}
}

func off(listen string) string {
	if listen == "" {
		return "off"
	}
	return listen
}

func levelText(l Log) string { return strings.ToLower(l.Level.String()) }

func profileText(t Timing) string {
	values := short(t.Beat) + "/" + short(t.Promise) + "/" + short(t.Epsilon)
	if t.Profile == "" {
		return "by hand " + values
	}
	return t.Profile + " " + values
}

func addressesText(m Member) string {
	texts := make([]string, len(m.Addresses))
	for i, a := range m.Addresses {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}

// keyText is enough of a public key to tell two apart in a message.
func keyText(m Member) string { return fmt.Sprintf("%x…", m.PublicKey[:8]) }

func vipText(v VIP) string {
	return fmt.Sprintf("%s on %s, group %s, scope %s", v.Address, v.Interface, v.Group, v.Scope)
}

func hooksText(hooks []Hook) string {
	if len(hooks) == 0 {
		return "none"
	}
	texts := make([]string, len(hooks))
	for i, h := range hooks {
		texts[i] = fmt.Sprintf("%s: %s (%s)", h.Phase, strings.Join(h.Command, " "), short(h.Timeout))
	}
	return strings.Join(texts, "; ")
}
