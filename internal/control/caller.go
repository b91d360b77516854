package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groupsMax bounds the supplementary groups that are read of a caller.
const groupsMax = 1024

// Caller is the process at the other end, as the kernel knows it.
type Caller struct {
	PID    int32
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
}

func (c Caller) String() string {
	return "uid " + strconv.FormatUint(uint64(c.UID), 10) + " pid " + strconv.FormatInt(int64(c.PID), 10)
}

type callerKey struct{}

// connected is what was found out about a connection when it was accepted.
type connected struct {
	caller Caller
	err    error
}

// CallerOf is the caller of the request that ctx belongs to.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(connected)
	return c.caller, ok && c.err == nil
}

func peerOf(conn *net.UnixConn) (Caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Caller{}, fmt.Errorf("reach descriptor of caller: %w", err)
	}
	var caller Caller
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = fmt.Errorf("read credentials of caller: %w", err)
			return
		}
		caller = Caller{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
		caller.Groups, inner = peerGroups(fd)
	})
	return caller, errors.Join(err, inner)
}

// peerGroups reads SO_PEERGROUPS: the supplementary groups of the caller when
// it connected (socket(7), since Linux 4.13). x/sys/unix has no call for it.
func peerGroups(fd uintptr) ([]uint32, error) {
	buf := make([]byte, 4*groupsMax)
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	switch errno {
	case 0:
	case unix.ENODATA, unix.ENOPROTOOPT: // none, or an old kernel
		return nil, nil
	default:
		return nil, fmt.Errorf("read groups of caller: %w", errno)
	}
	groups := make([]uint32, 0, size/4)
	for b := buf[:size]; len(b) >= 4; b = b[4:] {
		groups = append(groups, binary.NativeEndian.Uint32(b))
	}
	return groups, nil
}

// allowed tells whether the caller may use the socket: root, the daemon's own
// user, or the group of the socket when its mode lets that group write. The
// kernel has checked the mode at connect; this holds too if the file was
// opened up by mistake.
func allowed(c Caller, self uint32, socket os.FileInfo) bool {
	if owner(c, self) {
		return true
	}
	stat, ok := socket.Sys().(*syscall.Stat_t)
	if !ok || socket.Mode().Perm()&0o020 == 0 {
		return false
	}
	return c.GID == stat.Gid || slices.Contains(c.Groups, stat.Gid)
}

// owner tells whether a caller may call whatever the mode of the socket is.
func owner(c Caller, self uint32) bool { return c.UID == 0 || c.UID == self }
