package vip

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrNoInterface means that no interface of that name exists in the
	// Manager's network namespace.
	ErrNoInterface = errors.New("no such interface")

	// ErrNotEthernet means that the interface has no Ethernet address, so
	// that there is no neighbour table to announce to.
	ErrNotEthernet = errors.New("not an Ethernet interface")

	// ErrUnsupported means that the kernel was built without what was asked.
	ErrUnsupported = errors.New("not supported by this kernel")
)

// explain adds to a kernel error what an operator has to know about it. The
// error number stays in the chain.
func explain(err error) error {
	var missing netlink.LinkNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing), errors.Is(err, ErrNoInterface):
		return ErrNoInterface
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %w", ErrNoInterface, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (CAP_NET_ADMIN and CAP_NET_RAW are needed)", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (is IPv6 disabled on the interface?)", err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%w (the interface is down)", err)
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%w (transmit queue full or kernel not answering)", err)
	}
	return err
}
