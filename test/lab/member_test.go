package lab_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

// memberMark makes this test binary a stand-in for the holdfast program: a
// guard that starts a worker again when it dies, and a worker that serves a
// status and ends with its guard. What it says is fixed: gw1 holds and leads.
const memberMark = "HOLDFAST_LAB_TEST_MEMBER"

func standIn(args []string) int {
	var err error
	switch args[0] {
	case "keygen":
		err = standInKey(args[2])
	case "run":
		err = standInGuard(args[2])
	case "worker":
		err = standInWorker(args[1])
	case "--socket":
		fmt.Printf("asked through %s: %v\n", args[1], args[2:])
		fmt.Fprintln(os.Stderr, "refused")
		return 4
	default:
		err = fmt.Errorf("unknown command %q", args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func standInKey(file string) error {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	fmt.Println(base64.StdEncoding.EncodeToString(key[:]))
	return os.WriteFile(file, key[:], 0o600)
}

type standInConfig struct {
	Node struct {
		Name       string
		RuntimeDir string `toml:"runtime_dir"`
	}
}

func standInGuard(file string) error {
	var c standInConfig
	if _, err := toml.DecodeFile(file, &c); err != nil {
		return err
	}
	// Like the product: a bpffs of its own, which outlives it.
	bpf := filepath.Join(c.Node.RuntimeDir, "bpf")
	if err := os.MkdirAll(bpf, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", bpf, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	for {
		fmt.Fprintf(os.Stderr, "guard of %s starts a worker\n", c.Node.Name)
		cmd := exec.Command("/proc/self/exe", "worker", file)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			fmt.Fprintf(os.Stderr, "worker ended: %v\n", err)
		case <-signals:
			in.Close()
			<-done
			return unix.Unmount(bpf, 0)
		}
	}
}

func standInWorker(file string) error {
	var c standInConfig
	if _, err := toml.DecodeFile(file, &c); err != nil {
		return err
	}
	socket := filepath.Join(c.Node.RuntimeDir, "control.sock")
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with the guard
		os.Exit(0)
	}()
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := map[string]any{
			"node": c.Node.Name, "role": "standby", "holder": "gw1", "leader": "gw1", "term": 3,
			"quorum": map[string]any{"ok": true, "voters": 3, "reachable": 3}, "path": r.URL.Path,
		}
		if c.Node.Name == "gw1" {
			s["role"], s["lease"] = "holder", map[string]any{"held": true}
		}
		json.NewEncoder(w).Encode(s)
	}))
}
