package config

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	old := base
	for _, c := range []struct {
		name, from, to string // of base
		want           string // key old->new live|refused, one a line
	}{
		{"nothing", "", "", ""},
		{"same timing by hand", `profile = "default"`, "beat = \"50ms\"\npromise = \"500ms\"\nepsilon = \"20ms\"", ""},
		{"cluster", `"site-a"`, `"site-b"`, "cluster site-a->site-b refused"},
		{"node", `"/d"`, `"/e"`, "node.data_dir /d->/e refused"},
		{"node name", `name = "gw1"`, `name = "gw2"`, "node.name gw1->gw2 refused"},
		{"member address", `"10.1.0.2:7400",`, ``, "member[gw2].addresses 10.0.0.2:7400 10.1.0.2:7400->10.0.0.2:7400 live"},
		{"member role and priority", `role = "witness"`, `priority = 7`,
			"member[w1].role witness->gateway refused\nmember[w1].priority 100->7 refused"},
		{"member renamed", `name = "w1"`, `name = "w2"`, "member[w1] 10.0.0.3:7400-> live\nmember[w2] ->10.0.0.3:7400 live"},
		{"timing", `profile = "default"`, `profile = "fast"`, "timing.profile default 50ms/500ms/20ms->fast 10ms/120ms/5ms refused"},
		{"vip interface", `"eth0"`, `"bond0"`, "vip[10.0.0.100].interface eth0->bond0 live"},
		{"vip group", `interface = "eth0"`, "interface = \"eth0\"\ngroup = \"b\"", "vip[10.0.0.100].group default->b refused"},
		{"vip replaced", `"10.0.0.100/24"`, `"10.0.0.101/24"`,
			"vip[10.0.0.100] 10.0.0.100/24 on eth0, group default, scope vip-> live\n" +
				"vip[10.0.0.101] ->10.0.0.101/24 on eth0, group default, scope vip live"},
		{"vip prefix", `"10.0.0.100/24"`, `"10.0.0.100/32"`, "vip[10.0.0.100].address 10.0.0.100/24->10.0.0.100/32 refused"},
		{"live keys", "[timing]", "[placement]\npreempt = true\npreempt_delay = \"1m\"\nfence_delay = \"0s\"\n" +
			"[status]\nlisten = \"\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n[timing]",
			"placement.preempt false->true live\nplacement.preempt_delay 30s->1m live\nplacement.fence_delay 10s->0s live\n" +
				"status.listen 127.0.0.1:7401->off live\nlog.level info->debug live\nlog.format auto->json live"},
		{"state and buckets", "[timing]", "[state]\nmax_bytes = \"1GiB\"\nsnapshot_bytes = \"64MiB\"\nscrub_every = \"0s\"\nslow_fsync = \"1s\"\n[[bucket]]\nname = \"tasks\"\nrpo = \"1m\"\n[[bucket]]\nname = \"x\"\n[timing]",
			"state.max_bytes 512MiB->1GiB refused\nstate.snapshot_bytes 16MiB->64MiB live\nstate.scrub_every 24h->0s live\nstate.slow_fsync 500ms->1s live\nbucket[tasks].rpo 2m->1m live\nbucket[x] ->5m live"},
		{"hooks", "[timing]", "[[hook]]\nphase = \"acquired\"\ncommand = [\"/bin/a\", \"b\"]\n[timing]",
			"hook none->acquired: /bin/a b (10s) live"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := Diff(parse(t, old), parse(t, spoil(t, c.from, c.to)))
			var lines []string
			for _, ch := range changes {
				word := "refused"
				if ch.Live {
					word = "live"
				}
				if ch.Live != (ch.Why == "") {
					t.Errorf("%s: live %v, why %q", ch.Key, ch.Live, ch.Why)
				}
				lines = append(lines, ch.Key+" "+ch.Old+"->"+ch.New+" "+word)
			}
			if got := strings.Join(lines, "\n"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if n := strings.Count(c.want, " refused"); len(Refused(changes)) != n {
				t.Errorf("%d refused, want %d", len(Refused(changes)), n)
			}
		})
	}
}
