package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const mainPackage = "github.com/holdfast-ha/holdfast/cmd/holdfast"

// Binary returns the path of the holdfast program: that of HOLDFAST_BIN where
// it is set, else one that is built from the module of the working directory,
// once in each process.
var Binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("HOLDFAST_BIN"); path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("find HOLDFAST_BIN: %w", err)
		}
		if _, err := os.Stat(abs); err != nil {
			return "", fmt.Errorf("find HOLDFAST_BIN: %w", err)
		}
		return abs, nil
	}
	return build()
})

func build() (string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	// The same place for the same module: the linker has nothing to do when
	// nothing has changed.
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(mod))))
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-lab-bin-%x", sum[:4]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory for the program: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("open build lock: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock build: %w", err)
	}
	path := filepath.Join(dir, "holdfast")
	cmd := exec.Command("go", "build", "-o", path, mainPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build %s: %w", mainPackage, err), errors.New(string(out)))
	}
	return path, nil
}
