package config

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// base is a valid file; every row of the table below spoils one thing.
const base = `cluster = "site-a"
[node]
name = "gw1"
data_dir = "/d"
runtime_dir = "/r"
[[member]]
name = "gw1"
addresses = ["10.0.0.1:7400"]
public_key = "VIvehxhDt2KjN5O2MU6TnoXZFEsHIwCppUURj1ynWsE="
[[member]]
name = "gw2"
addresses = [
  "10.0.0.2:7400",
  "10.1.0.2:7400",
]
public_key = "6y8eM3dTy66ZvrzV/n7mgrsBRLF3Llx4QFy9nd6aRyI="
[[member]]
name = "w1"
addresses = ["10.0.0.3:7400"]
public_key = "YMVZD3Lu8pL5VFr8KL9jypHSAWoKKI+Q+aMvidP//K8="
role = "witness"
[[vip]]
address = "10.0.0.100/24"
interface = "eth0"
[timing]
profile = "default"
`

// spoil replaces one part of base, which must be there.
func spoil(t *testing.T, old, text string) string {
	t.Helper()
	if old == "" {
		return base + text
	}
	if !strings.Contains(base, old) {
		t.Fatalf("base has no %q", old)
	}
	return strings.Replace(base, old, text, 1)
}

type expected struct {
	line int
	key  string
	what string // part of what is wrong or what to write
}

var malformed = []struct {
	name      string
	old, text string // of base; old "" appends
	want      []expected
}{
	{"no cluster", `cluster = "site-a"`, "", []expected{{1, "cluster", "missing"}}},
	{"empty cluster", `"site-a"`, `""`, []expected{{1, "cluster", "empty"}}},
	{"cluster is a number", `"site-a"`, `7`, []expected{{1, "cluster", "a number where a text belongs"}}},
	{"cluster with a blank", `"site-a"`, `"site a"`, []expected{{1, "cluster", `has ' ' at place 5`}}},
	{"cluster too long", `"site-a"`, `"` + strings.Repeat("a", 64) + `"`, []expected{{1, "cluster", "64 bytes"}}},
	{"syntax", `name = "gw1"`, `name = gw1"`, []expected{{3, "node.name", "not TOML"}}},
	{"unclosed text", `"/d"`, `"/d`, []expected{{4, "node.data_dir", "not TOML"}}},
	{"unclosed header", "[node]", "[node", []expected{{2, "", "not TOML"}}},
	{"duplicate key", `data_dir = "/d"`, "data_dir = \"/d\"\ndata_dir = \"/e\"", []expected{{5, "node.data_dir", "first in line 4"}}},
	{"two duplicates", `data_dir = "/d"`, "data_dir = \"/d\"\nname = \"x\"\n'data_dir' = \"/e\"",
		[]expected{{5, "node.name", "first in line 3"}, {6, "node.data_dir", "first in line 4"}}},
	{"duplicate table", "", "[node]\n", []expected{{27, "node", "first in line 2"}}},
	{"unknown top key", `cluster = "site-a"`, "cluster = \"site-a\"\nclusters = 2", []expected{{2, "clusters", `write "cluster"`}}},
	{"unknown table", "", "[stats]\nlisten = \"\"\n", []expected{{27, "stats", `write "status"`}}},
	{"unknown key with a near one", `data_dir = "/d"`, `datadir = "/d"`, []expected{{4, "node.datadir", `write "data_dir"`}}},
	{"unknown key of another table", `data_dir = "/d"`, `max_bytes = "1MiB"`, []expected{{4, "node.max_bytes", "under [state]"}}},
	{"top key below a table", "", "cluster = \"b\"\n", []expected{{27, "timing.cluster", "above the first"}}},
	{"unknown member key", `role = "witness"`, `votes = 1`, []expected{{21, "member.votes", "unknown key"}}},
	{"no node name", `name = "gw1"`, "", []expected{{2, "node.name", "missing"}}},
	{"node not a member", `name = "gw1"`, `name = "gw9"`, []expected{{3, "node.name", "not one of the members"}}},
	{"relative data_dir", `"/d"`, `"d"`, []expected{{4, "node.data_dir", "not an absolute path"}}},
	{"same directories", `"/r"`, `"/d/."`, []expected{{5, "node.runtime_dir", "same as data_dir"}}},
	{"runtime_dir too long", `"/r"`, `"/` + strings.Repeat("r", 100) + `"`, []expected{{5, "node.runtime_dir", "107"}}},
	{"node is a list", "[node]", "[[node]]", []expected{{2, "node", "a list where a table belongs"}, {2, "node.name", "missing"}}},
	{"state is a number", `cluster = "site-a"`, "cluster = \"site-a\"\nstate = 1", []expected{{2, "state", "a number where a table"}}},
	{"hook is a table", "", "[hook]\nphase = \"fenced\"\n", []expected{{27, "hook", "with two brackets"}}},
	{"hook is a list of numbers", `cluster = "site-a"`, "cluster = \"site-a\"\nhook = [\n1]", []expected{{3, "hook", "a number where a table"}}},
	{"member name twice", `name = "gw2"`, `name = "gw1"`, []expected{{11, "member.name", "first in line 7"}}},
	{"address without port", `"10.1.0.2:7400"`, `"10.1.0.2"`, []expected{{14, "member.addresses", "not IP:port"}}},
	{"address is a host name", `"10.1.0.2:7400"`, `"gw2:7400"`, []expected{{14, "member.addresses", "not IP:port"}}},
	{"address with port 0", `"10.1.0.2:7400"`, `"10.1.0.2:0"`, []expected{{14, "member.addresses", "port 0"}}},
	{"address of nobody", `"10.1.0.2:7400"`, `"0.0.0.0:7400"`, []expected{{14, "member.addresses", "one host"}}},
	{"address twice", `"10.1.0.2:7400"`, `"10.0.0.1:7400"`, []expected{{14, "member.addresses", `first by member "gw1"`}}},
	{"address is a number", `"10.1.0.2:7400"`, `7400`, []expected{{14, "member.addresses", "a number where a text"}}},
	{"addresses is a text", `["10.0.0.3:7400"]`, `"10.0.0.3:7400"`, []expected{{19, "member.addresses", "a text where a list"}}},
	{"no addresses", `["10.0.0.3:7400"]`, `[]`, []expected{{19, "member.addresses", "0 elements"}}},
	{"too many addresses", `["10.0.0.3:7400"]`, `["10.0.0.3:1","10.0.0.3:2","10.0.0.3:3","10.0.0.3:4","10.0.0.3:5"]`,
		[]expected{{19, "member.addresses", "5 elements"}}},
	{"key not base64", `"YMVZD3Lu8pL5VFr8KL9jypHSAWoKKI+Q+aMvidP//K8="`, `"gateway"`, []expected{{20, "member.public_key", "not base64"}}},
	{"key too short", `"YMVZD3Lu8pL5VFr8KL9jypHSAWoKKI+Q+aMvidP//K8="`, `"AAAA"`, []expected{{20, "member.public_key", "3 bytes"}}},
	{"key all zero", `"YMVZD3Lu8pL5VFr8KL9jypHSAWoKKI+Q+aMvidP//K8="`, `"` + strings.Repeat("A", 43) + `="`,
		[]expected{{20, "member.public_key", "all zero"}}},
	{"key of another", `"YMVZD3Lu8pL5VFr8KL9jypHSAWoKKI+Q+aMvidP//K8="`, `"VIvehxhDt2KjN5O2MU6TnoXZFEsHIwCppUURj1ynWsE="`,
		[]expected{{20, "member.public_key", `the key of member "gw1"`}}},
	{"unknown role", `"witness"`, `"witnes"`, []expected{{21, "member.role", `write "witness"`}}},
	{"priority 0", `role = "witness"`, `priority = 0`, []expected{{21, "member.priority", "outside 1 to 1000"}}},
	{"priority is a text", `role = "witness"`, `priority = "high"`, []expected{{21, "member.priority", "a text where a whole number"}}},
	{"priority is a fraction", `role = "witness"`, `priority = 1.5`, []expected{{21, "member.priority", "a fraction"}}},
	{"vip without prefix length", `"10.0.0.100/24"`, `"10.0.0.100"`, []expected{{23, "vip.address", "no prefix length"}}},
	{"vip not an address", `"10.0.0.100/24"`, `"vip/24"`, []expected{{23, "vip.address", "not an address"}}},
	{"vip is the network", `"10.0.0.100/24"`, `"10.0.0.0/24"`, []expected{{23, "vip.address", "network itself"}}},
	{"vip is the broadcast", `"10.0.0.100/24"`, `"10.0.0.255/24"`, []expected{{23, "vip.address", "broadcast"}}},
	{"vip is loopback", `"10.0.0.100/24"`, `"127.0.0.2/8"`, []expected{{23, "vip.address", "offer to others"}}},
	{"vip of a member", `"10.0.0.100/24"`, `"10.1.0.2/24"`, []expected{{23, "vip.address", `member "gw2"`}}},
	{"vip twice", "", "[[vip]]\naddress = \"10.0.0.100/32\"\ninterface = \"eth1\"\n", []expected{{28, "vip.address", "first in line 23"}}},
	{"no vip", "[[vip]]\naddress = \"10.0.0.100/24\"\ninterface = \"eth0\"\n", "", []expected{{1, "vip", "missing"}}},
	{"no interface", `interface = "eth0"`, "", []expected{{22, "vip.interface", "missing"}}},
	{"interface too long", `"eth0"`, `"abcdefghijklmnop"`, []expected{{24, "vip.interface", "15 characters"}}},
	{"interface with a slash", `"eth0"`, `"eth/0"`, []expected{{24, "vip.interface", "cannot be the name"}}},
	{"interface lo", `"eth0"`, `"lo"`, []expected{{24, "vip.interface", "not gated"}}},
	{"odd group", `interface = "eth0"`, "interface = \"eth0\"\ngroup = \"a/b\"", []expected{{25, "vip.group", "has '/' at place 2"}}},
	{"unknown scope", `interface = "eth0"`, "interface = \"eth0\"\nscope = \"all\"", []expected{{25, "vip.scope", "one of vip, forwarding"}}},
	{"two forwarding groups", `interface = "eth0"`, "interface = \"eth0\"\nscope = \"forwarding\"\n[[vip]]\naddress = \"10.0.0.9/24\"\ninterface = \"eth0\"\ngroup = \"b\"\nscope = \"forwarding\"",
		[]expected{{30, "vip.scope", `group "default" forwards on eth0`}}},
	{"unknown profile", `"default"`, `"lan"`, []expected{{26, "timing.profile", "one of default, fast, wan"}}},
	{"profile and values", `profile = "default"`, "profile = \"fast\"\nbeat = \"10ms\"", []expected{{26, "timing.profile", "not both"}}},
	{"half by hand", `profile = "default"`, `beat = "10ms"`,
		[]expected{{25, "timing.promise", "missing"}, {25, "timing.epsilon", "missing"}}},
	{"beat too long", `profile = "default"`, "beat = \"200ms\"\npromise = \"500ms\"\nepsilon = \"20ms\"", []expected{{26, "timing.beat", "fifth"}}},
	{"epsilon too long", `profile = "default"`, "beat = \"10ms\"\npromise = \"500ms\"\nepsilon = \"490ms\"", []expected{{28, "timing.epsilon", "timing not safe"}}},
	{"time without unit", "", "[placement]\npreempt_delay = 30\n", []expected{{28, "placement.preempt_delay", "a number where a time"}}},
	{"time in quotes without unit", "", "[placement]\npreempt_delay = \"30\"\n", []expected{{28, "placement.preempt_delay", "not a time"}}},
	{"negative time", "", "[placement]\npreempt_delay = \"-1s\"\n", []expected{{28, "placement.preempt_delay", "outside"}}},
	{"fence_delay within a takeover", "", "[placement]\nfence_delay = \"1s\"\n", []expected{{28, "placement.fence_delay", "twice the promise"}}},
	{"preempt is a text", "", "[placement]\npreempt = \"yes\"\n", []expected{{28, "placement.preempt", "true or false"}}},
	{"listen on a name", "", "[status]\nlisten = \"localhost:80\"\n", []expected{{28, "status.listen", "not an address to listen on"}}},
	{"listen on the peer port", "", "[status]\nlisten = \":7400\"\n", []expected{{28, "status.listen", "talks to its peers"}}},
	{"size without unit", "", "[state]\nmax_bytes = 1000000\n", []expected{{28, "state.max_bytes", "a number where a size"}}},
	{"size in decimal units", "", "[state]\nmax_bytes = \"512MB\"\n", []expected{{28, "state.max_bytes", "KiB, MiB or GiB"}}},
	{"size too small", "", "[state]\nmax_bytes = \"1KiB\"\n", []expected{{28, "state.max_bytes", "outside 1MiB to 16GiB"}}},
	{"bucket without name", "", "[[bucket]]\nrpo = \"1m\"\n", []expected{{27, "bucket.name", "missing"}}},
	{"bucket twice", "", "[[bucket]]\nname = \"tasks\"\n[[bucket]]\nname = \"tasks\"\n", []expected{{30, "bucket.name", "first in line 28"}}},
	{"unknown level", "", "[log]\nlevel = \"warning\"\n", []expected{{28, "log.level", "one of debug, info, warn, error"}}},
	{"unknown format", "", "[log]\nformat = \"jsn\"\n", []expected{{28, "log.format", `write "json"`}}},
	{"hook without phase", "", "[[hook]]\ncommand = [\"/bin/true\"]\n", []expected{{27, "hook.phase", "missing"}}},
	{"unknown phase", "", "[[hook]]\nphase = \"aquired\"\ncommand = [\"/bin/true\"]\n", []expected{{28, "hook.phase", `write "acquired"`}}},
	{"hook without command", "", "[[hook]]\nphase = \"acquired\"\n", []expected{{27, "hook.command", "missing"}}},
	{"hook command is a text", "", "[[hook]]\nphase = \"acquired\"\ncommand = \"/bin/true\"\n", []expected{{29, "hook.command", "as a list"}}},
	{"hook command relative", "", "[[hook]]\nphase = \"acquired\"\ncommand = [\"true\"]\n", []expected{{29, "hook.command", "not an absolute path"}}},
	{"hook timeout 0", "", "[[hook]]\nphase = \"acquired\"\ncommand = [\"/bin/true\"]\ntimeout = \"0s\"\n", []expected{{30, "hook.timeout", "outside 10ms to 10m"}}},
	{"later table", "", "[backup]\nfull_every = \"24h\"\n", []expected{{27, "backup", "not supported by this version"}}},
	{"later tables", "", "[[check]]\nname = \"a\"\n[watchdog]\nmode = \"off\"\n[[check]]\nname = \"b\"\n",
		[]expected{{27, "check", "not supported"}, {29, "watchdog", "not supported"}}},
	{"nested too deep", "", "deep = " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n", []expected{{27, "syntax", "nested deeper"}}},
	{"several at once", `name = "gw1"
data_dir = "/d"`, `name = "gw 1"
data_dir = "d"
color = "red"`,
		[]expected{{3, "node.name", "place 3"}, {4, "node.data_dir", "absolute"}, {5, "node.color", "unknown key"}}},
}

func TestMalformed(t *testing.T) {
	if len(malformed) < 40 {
		t.Fatalf("only %d rows", len(malformed))
	}
	for _, c := range malformed {
		t.Run(c.name, func(t *testing.T) {
			expect(t, spoil(t, c.old, c.text), c.want)
		})
	}
}

func expect(t *testing.T, text string, want []expected) {
	t.Helper()
	_, err := Parse("f.toml", []byte(text))
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v, want problems", err)
	}
	if len(problems) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(problems), len(want), problems)
	}
	for i, p := range problems {
		if p.Line != want[i].line || want[i].key != "" && p.Key != want[i].key || !strings.Contains(p.What+": "+p.Fix, want[i].what) {
			t.Errorf("got  %v\nwant %+v", p, want[i])
		}
		if p.What == "" || p.Fix == "" || strings.Contains(p.String(), "\n") {
			t.Errorf("unusable problem %q", p)
		}
	}
}

func TestBaseIsValid(t *testing.T) { parse(t, base) }

// memberText is one more member.
func memberText(i int, role string) string {
	key := sha256.Sum256([]byte{byte(i)})
	return fmt.Sprintf("[[member]]\nname = \"m%d\"\naddresses = [\"10.9.0.%d:7400\"]\npublic_key = %q\nrole = %q\n",
		i, i, base64.StdEncoding.EncodeToString(key[:]), role)
}

func TestNumberOfVoters(t *testing.T) {
	withMembers := func(n int, role string) string {
		text := "cluster = \"c\"\nnode = {name = \"m1\"}\nvip = [{address = \"10.0.0.100/24\", interface = \"eth0\"}]\n"
		for i := 1; i <= n; i++ {
			text += memberText(i, role)
		}
		return text
	}
	for _, c := range []struct {
		name string
		n    int
		role string
		want []expected
	}{
		{"none", 0, "gateway", []expected{{1, "member", "two gateways and a witness"}, {2, "node.name", "not one of"}}},
		{"one", 1, "gateway", []expected{{4, "member", "at least 3"}}},
		{"two", 2, "gateway", []expected{{9, "member", `role = "witness"`}}},
		{"four", 4, "gateway", []expected{{19, "member", "even number of voters (4)"}}},
		{"only witnesses", 3, "witness", []expected{{4, "member", "no member is a gateway"}}},
		{"sixteen", 16, "gateway", []expected{{79, "member", "15 is the limit"}}},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, withMembers(c.n, c.role), c.want) })
	}
	for _, n := range []int{3, 5, 15} {
		parse(t, withMembers(n, "gateway"))
	}
}

func TestLimitsOfLists(t *testing.T) {
	var vips, groups, hooks strings.Builder
	for i := range 65 {
		fmt.Fprintf(&vips, "[[vip]]\naddress = \"10.5.0.%d/24\"\ninterface = \"eth0\"\n", i+1)
		fmt.Fprintf(&hooks, "[[hook]]\nphase = \"acquired\"\ncommand = [\"/bin/true\"]\n")
	}
	for i := range 32 {
		fmt.Fprintf(&groups, "[[vip]]\naddress = \"10.5.0.%d/24\"\ninterface = \"eth0\"\ngroup = \"g%d\"\n", i+1, i)
	}
	expect(t, base+vips.String(), []expected{{26 + 3*63 + 1, "vip", "66 of them"}})
	expect(t, base+hooks.String(), []expected{{26 + 3*64 + 1, "hook", "65 of them"}})
	expect(t, base+groups.String(), []expected{{26 + 4*GroupsMax, "vip.group", "more than 8 groups"}})
}

func TestLongListOfProblemsIsCut(t *testing.T) {
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "x%d = 1\n", i)
	}
	_, err := Parse("f", []byte(text.String()))
	if lines := strings.Count(err.Error(), "\n") + 1; lines != problemsMax+1 {
		t.Errorf("%d lines", lines)
	}
}
