package vip

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// namespace is a network namespace in which sockets can be made later, from
// any goroutine.
type namespace struct{ handle netns.NsHandle }

// currentNamespace is that of the calling thread.
func currentNamespace() (namespace, error) {
	h, err := netns.Get()
	if err != nil {
		return namespace{}, fmt.Errorf("open network namespace: %w", err)
	}
	return namespace{handle: h}, nil
}

// do runs fn on a thread that is in the namespace. Normally the whole process
// is, and fn runs right here: entering would need CAP_SYS_ADMIN.
func (n namespace) do(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = here.Close() }()
	if here.Equal(n.handle) {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends this thread with its goroutine, so
		// that no other goroutine can run in the wrong namespace.
		runtime.LockOSThread()
		if err := netns.Set(n.handle); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

func (n namespace) close() error { return n.handle.Close() }
