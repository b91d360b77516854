package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// run runs the program on this host, outside of any lab.
func run(t *testing.T, args ...string) lab.Output {
	t.Helper()
	bin, err := lab.Binary()
	check(t, err)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(within(t, settle), bin, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return lab.Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// goodConfig returns a valid file of three members.
func goodConfig(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "cluster = \"site-a\"\n[node]\nname = \"gw1\"\ndata_dir = %q\nruntime_dir = %q\nkey_file = %q\n",
		filepath.Join(dir, "data"), filepath.Join(dir, "run"), filepath.Join(dir, "gw1.key"))
	for i, n := range []string{"gw1", "gw2", "w1"} {
		out := run(t, "keygen", "-o", filepath.Join(dir, n+".key"))
		key := regexp.MustCompile(`[A-Za-z0-9+/]{43}=`).FindString(out.Stdout)
		if out.Code != 0 || key == "" {
			t.Fatalf("keygen: %+v", out)
		}
		role := "gateway"
		if n == "w1" {
			role = "witness"
		}
		fmt.Fprintf(&b, "[[member]]\nname = %q\naddresses = [\"10.77.0.%d:7400\"]\npublic_key = %q\nrole = %q\n", n, i+1, key, role)
	}
	// No host has this interface: a file that is wrongly taken for good must not
	// touch this machine.
	b.WriteString("[[vip]]\naddress = \"10.77.0.100/24\"\ninterface = \"hf-none0\"\n[timing]\nprofile = \"default\"\n[log]\nlevel = \"info\"\n")
	return b.String()
}

// Covers C5, S6
func TestConfigurationCheck(t *testing.T) {
	dir := t.TempDir()
	good := goodConfig(t, dir)
	file := filepath.Join(dir, "holdfast.toml")
	write := func(text string) {
		t.Helper()
		check(t, os.WriteFile(file, []byte(text), 0o600))
	}
	write(good)
	out := run(t, "config", "check", file)
	if out.Code != 0 {
		t.Fatalf("the good file: %+v", out)
	}
	wantText(t, out.Stdout, "is valid", "lease", "391ms", "margin", "3 voters")

	t.Run("two voters", func(t *testing.T) {
		from := strings.LastIndex(good, "[[member]]")
		to := strings.Index(good, "[[vip]]")
		write(good[:from] + good[to:])
		for _, args := range [][]string{{"config", "check", file}, {"run", "-c", file}} {
			out := run(t, args...)
			if out.Code != 2 {
				t.Errorf("%v: exit code %d, want 2", args, out.Code)
			}
			wantText(t, out.Stderr, "witness", "hint: ")
		}
	})

	second := strings.Index(good, `name = "gw2"`)
	for name, change := range map[string]struct {
		text string
		want string
	}{
		"no TOML":               {"cluster = \n", "1"},
		"empty":                 {"", "1"},
		"unknown key":           {strings.Replace(good, `[log]`, "[log]\ncolour = 1", 1), "colour"},
		"misspelt key":          {strings.Replace(good, `profile = "`, `profil = "`, 1), "profile"},
		"unknown table":         {good + "[nonsense]\n", "nonsense"},
		"unknown profile":       {strings.Replace(good, `"default"`, `"slow"`, 1), "profile"},
		"profile and beat":      {strings.Replace(good, "[timing]", "[timing]\nbeat = \"1s\"", 1), "beat"},
		"unsafe timing":         {strings.Replace(good, `profile = "default"`, "beat = \"1s\"\npromise = \"1s\"\nepsilon = \"1ms\"", 1), "beat"},
		"no member of the name": {strings.Replace(good, `name = "gw1"`, `name = "gw9"`, 1), "gw9"},
		"name twice":            {good[:second] + strings.Replace(good[second:], `name = "gw2"`, `name = "gw1"`, 1), "gw1"},
		"address twice":         {strings.Replace(good, "10.77.0.2:7400", "10.77.0.1:7400", 1), "10.77.0.1:7400"},
		"address without port":  {strings.Replace(good, "10.77.0.2:7400", "10.77.0.2", 1), "10.77.0.2"},
		"port out of range":     {strings.Replace(good, "10.77.0.2:7400", "10.77.0.2:70000", 1), "70000"},
		"name as an address":    {strings.Replace(good, "10.77.0.2:7400", "gw2:7400", 1), "gw2:7400"},
		"bad role":              {strings.Replace(good, `"witness"`, `"observer"`, 1), "observer"},
		"bad key":               {regexp.MustCompile(`public_key = "....`).ReplaceAllString(good, `public_key = "`), "public_key"},
		"address of no network": {strings.Replace(good, "10.77.0.100/24", "10.77.0.100", 1), "10.77.0.100"},
		"no address":            {strings.Replace(good, `address = "10.77.0.100/24"`, "", 1), "address"},
		"VIP twice":             {good + "[[vip]]\naddress = \"10.77.0.100/24\"\ninterface = \"eth1\"\n", "10.77.0.100"},
		"VIP of a member":       {strings.Replace(good, "10.77.0.100/24", "10.77.0.2/24", 1), "10.77.0.2"},
		"network address":       {strings.Replace(good, "10.77.0.100/24", "10.77.0.0/24", 1), "10.77.0.0"},
		"loopback":              {strings.Replace(good, "10.77.0.100/24", "127.0.0.1/8", 1), "127.0.0.1"},
		"long interface":        {strings.Replace(good, `"hf-none0"`, `"an-interface-name-too-long"`, 1), "interface"},
		"bad scope":             {strings.Replace(good, `interface = "hf-none0"`, "interface = \"hf-none0\"\nscope = \"all\"", 1), "scope"},
		"bad duration":          {good + "[placement]\nfence_delay = \"soon\"\n", "fence_delay"},
		"negative duration":     {good + "[placement]\nfence_delay = \"-1s\"\n", "fence_delay"},
		"wrong type":            {strings.Replace(good, `cluster = "site-a"`, `cluster = 7`, 1), "cluster"},
		"bad level":             {strings.Replace(good, `"info"`, `"loud"`, 1), "level"},
		"bad listen":            {good + "[status]\nlisten = \"everywhere\"\n", "listen"},
		"hook without command":  {good + "[[hook]]\nphase = \"acquired\"\n", "command"},
		"hook of no phase":      {good + "[[hook]]\nphase = \"sometimes\"\ncommand = [\"/bin/true\"]\n", "phase"},
	} {
		t.Run(name, func(t *testing.T) {
			if change.text == good {
				t.Fatal("the change changed nothing")
			}
			write(change.text)
			out := run(t, "config", "check", file)
			if out.Code != 2 {
				t.Fatalf("exit code %d, want 2: %s%s", out.Code, out.Stdout, out.Stderr)
			}
			if !regexp.MustCompile(regexp.QuoteMeta(file) + `:\d+: `).MatchString(out.Stderr) {
				t.Errorf("no file and line in %q", out.Stderr)
			}
			wantText(t, out.Stderr, change.want, "hint: ")
			if again := run(t, "run", "-c", file); again.Code != 2 {
				t.Errorf("run: exit code %d, want 2: %s", again.Code, again.Stderr)
			}
		})
	}
	if out := run(t, "config", "check", filepath.Join(dir, "missing")); out.Code != 2 {
		t.Errorf("missing file: %+v", out)
	}

	t.Run("all problems at once", func(t *testing.T) {
		write(strings.NewReplacer(`"info"`, `"loud"`, `"witness"`, `"observer"`, "10.77.0.100/24", "nonsense").Replace(good))
		out := run(t, "config", "check", file)
		if n := len(lines(out.Stderr, file+":")); out.Code != 2 || n < 3 {
			t.Errorf("%d problems of 3, exit code %d: %s", n, out.Code, out.Stderr)
		}
	})
	t.Run("key of another member", func(t *testing.T) {
		write(strings.Replace(good, filepath.Join(dir, "gw1.key"), filepath.Join(dir, "gw2.key"), 1))
		out := run(t, "run", "-c", file)
		if out.Code != 2 {
			t.Errorf("exit code %d: %s", out.Code, out.Stderr)
		}
		wantText(t, out.Stderr, "gw2.key", "public_key", "hint: ")
	})
	t.Run("key that others can read", func(t *testing.T) {
		write(good)
		key := filepath.Join(dir, "gw1.key")
		check(t, os.Chmod(key, 0o644))
		out := run(t, "run", "-c", file)
		if out.Code != 2 {
			t.Errorf("exit code %d: %s", out.Code, out.Stderr)
		}
		wantText(t, out.Stderr, key, "0644", "hint: chmod 600")
	})
}

// Covers C2, S6, F1a
func TestReload(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: func(_ *lab.Node, cfg lab.Table) {
		cfg["log"].(lab.Table)["level"] = "info"
	}})
	vips := []lab.Table{
		{"address": lab.VIP4.String(), "interface": "eth0", "group": "default", "scope": "vip"},
		{"address": "10.77.0.101/24", "interface": "eth0", "group": "default", "scope": "vip"},
	}
	kept := func(t *testing.T, p *watch, epoch uint64) {
		t.Helper()
		p.untouched()
		if e := w.epoch(t, w.holder(t)); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	}
	begin := func(t *testing.T) (*watch, uint64, string) {
		t.Helper()
		holder := w.holder(t)
		return w.watch(t), w.epoch(t, holder), holder
	}

	t.Run("bad file is refused and the one in force is kept", func(t *testing.T) {
		p, epoch, holder := begin(t)
		file := w.ConfigFile(holder)
		check(t, os.WriteFile(file, []byte("cluster = \"x\"\nnonsense = 1\n"), 0o600))
		out := w.cli(t, holder, 2, "reload")
		wantText(t, out.Stderr, file+":2: nonsense", "hint: ", "kept")
		check(t, w.Proc(holder).Signal(hangup))
		eventually(t, func() error {
			if len(lines(w.log(t, holder), "configuration not reloaded")) == 0 {
				return errors.New("SIGHUP with a bad file: nothing logged")
			}
			return nil
		})
		kept(t, p, epoch)
		// A worker that starts meanwhile takes the last good one.
		standby := w.other(holder)
		check(t, os.WriteFile(w.ConfigFile(standby), []byte("nonsense"), 0o600))
		broken(t)(w.KillWorker(standby))
		w.ready(t)
		kept(t, w.watch(t), epoch)
	})

	t.Run("change that cannot be made while running is refused by name", func(t *testing.T) {
		p, epoch, holder := begin(t)
		for key, change := range map[string]func(lab.Table){
			"timing":           func(c lab.Table) { c["timing"] = lab.Table{"profile": "fast"} },
			"cluster":          func(c lab.Table) { c["cluster"] = "other" },
			"node.data_dir":    func(c lab.Table) { c["node"].(lab.Table)["data_dir"] = "/var/lib/other" },
			"member[w1]":       func(c lab.Table) { c["member"].([]lab.Table)[2]["priority"] = 7 },
			"vip[10.77.0.100]": func(c lab.Table) { c["vip"].([]lab.Table)[0]["group"] = "other" },
			"member[gw2].public": func(c lab.Table) {
				c["member"].([]lab.Table)[1]["public_key"] = c["member"].([]lab.Table)[2]["public_key"]
			},
		} {
			check(t, w.WriteConfig(holder, change))
			out, err := w.RunCLI(within(t, settle), holder, "reload")
			check(t, err)
			if key == "member[gw2].public" { // two members with one key: no valid file at all
				if out.Code != 2 {
					t.Errorf("%s: exit code %d", key, out.Code)
				}
				continue
			}
			if out.Code != 4 || !strings.Contains(out.Stderr, key) || !strings.Contains(out.Stderr, "hint: ") {
				t.Errorf("%s: exit code %d: %s", key, out.Code, out.Stderr)
			}
		}
		kept(t, p, epoch)
	})

	t.Run("second address on all members", func(t *testing.T) {
		p, epoch, holder := begin(t)
		for _, n := range w.Names() {
			check(t, w.WriteConfig(n, func(c lab.Table) { c["vip"] = vips }))
			w.cli(t, n, 0, "reload")
		}
		w.ready(t)
		q := w.listen(t, lab.ProbeOptions{Target: netipAddr("10.77.0.101")})
		q.owner(holder)
		kept(t, p, epoch)
		for _, n := range w.Names() {
			w.seen(t, n, func(r *report) error {
				if len(r.VIPs) != 2 {
					return fmt.Errorf("addresses %+v", r.VIPs)
				}
				if r.has("configuration_differs") == nil {
					return errors.New("the file differs from what is committed")
				}
				return nil
			})
		}
		// Both move together.
		p = w.watch(t)
		next := w.other(holder)
		w.failover(t, next)
		p.owner(next)
		q.owner(next)
		p.safeWithin(undisturbed)
		q.safe()
		wantText(t, w.cli(t, next, 0, "reload").Stdout, "nothing changed")
	})

	t.Run("log level by SIGHUP", func(t *testing.T) {
		p, epoch, holder := begin(t)
		if strings.Contains(w.log(t, holder), "level=DEBUG") {
			t.Fatal("it logs debug lines already")
		}
		check(t, w.WriteConfig(holder, func(c lab.Table) {
			c["vip"] = vips
			c["log"].(lab.Table)["level"] = "debug"
		}))
		check(t, w.Proc(holder).Signal(hangup))
		eventually(t, func() error {
			if len(lines(w.log(t, holder), "configuration reloaded", "log.level")) == 0 {
				return errors.New("SIGHUP: nothing logged")
			}
			return nil
		})
		w.cli(t, holder, 0, "maintenance", "on", "w1")
		w.cli(t, holder, 0, "maintenance", "off", "w1")
		eventually(t, func() error {
			if !strings.Contains(w.log(t, holder), "level=DEBUG") {
				return errors.New("no debug lines")
			}
			return nil
		})
		kept(t, p, epoch)
	})

	t.Run("address is taken away again", func(t *testing.T) {
		p, epoch, holder := begin(t)
		for _, n := range w.Names() {
			check(t, w.WriteConfig(n, nil))
			w.cli(t, n, 0, "reload")
		}
		eventually(t, func() error {
			if has, err := w.lab.HasAddress(holder, netipAddr("10.77.0.101")); err != nil || has {
				return fmt.Errorf("10.77.0.101 is still there: %v", err)
			}
			return nil
		})
		w.ready(t)
		kept(t, p, epoch)
	})
}
