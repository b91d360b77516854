package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netnsDir is where named network namespaces are bind-mounted, as ip-netns(8)
// does, so that `ip netns exec hf-… tcpdump` works on a lab that is running.
const netnsDir = "/run/netns"

// threadNetns names the network namespace of the calling thread.
const threadNetns = "/proc/thread-self/ns/net"

// namespace is an open network namespace.
type namespace struct {
	name  string
	file  *os.File
	inode uint64
}

// onThread runs fn on an OS thread of its own goroutine. When restore reports
// false the thread stays locked and dies with the goroutine, because a thread
// in a foreign namespace must never serve another goroutine.
func onThread(fn func() (restored bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		restored, err := fn()
		if restored {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inside runs fn on a thread that is in the namespace of file, and puts the
// thread back. fn must not start goroutines that need the namespace.
func inside(file *os.File, fn func() error) error {
	return onThread(func() (bool, error) {
		home, err := os.Open(threadNetns)
		if err != nil {
			return true, fmt.Errorf("open own network namespace: %w", err)
		}
		defer home.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace: %w", err)
		}
		fnErr := fn()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			return false, errors.Join(fnErr, fmt.Errorf("return to own network namespace: %w", err))
		}
		return true, fnErr
	})
}

// newNamespace makes a network namespace and binds it to /run/netns/name.
func newNamespace(name string) (*namespace, error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", netnsDir, err)
	}
	path := filepath.Join(netnsDir, name)
	mark, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make namespace file: %w", err)
	}
	mark.Close()
	err = onThread(func() (bool, error) {
		home, err := os.Open(threadNetns)
		if err != nil {
			return true, err
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("unshare: %w", err)
		}
		mountErr := unix.Mount(threadNetns, path, "", unix.MS_BIND, "")
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			return false, errors.Join(mountErr, err)
		}
		return true, mountErr
	})
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return openNamespace(name)
}

// openNamespace opens a namespace that is bound to /run/netns/name.
func openNamespace(name string) (*namespace, error) {
	file, err := os.Open(filepath.Join(netnsDir, name))
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		file.Close()
		return nil, fmt.Errorf("stat network namespace %s: %w", name, err)
	}
	return &namespace{name: name, file: file, inode: st.Ino}, nil
}

// removeNamespace unbinds /run/netns/name. The kernel ends the namespace, and
// the links in it, once no process and no descriptor is left in it.
func removeNamespace(name string) error {
	path := filepath.Join(netnsDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace file: %w", err)
	}
	return nil
}

// writeSysctl sets a sysctl of the calling thread's network namespace.
// key uses slashes: "net/ipv6/conf/all/accept_dad".
func writeSysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s: %w", key, err)
	}
	return nil
}

// mountsUnder returns the mount points below dir, deepest first.
func mountsUnder(dir string) ([]string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if f[4] == dir || strings.HasPrefix(f[4], dir+"/") {
			found = append([]string{f[4]}, found...) // later mounts lie on top
		}
	}
	return found, nil
}

// unmountUnder unmounts all that is mounted below dir. A member mounts a
// bpffs of its own there, and pins in it keep programs attached.
func unmountUnder(dir string) error {
	points, err := mountsUnder(dir)
	if err != nil {
		return err
	}
	var all error
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			all = errors.Join(all, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return all
}
