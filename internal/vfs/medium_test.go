package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnreadable(t *testing.T) {
	for err, want := range map[error]bool{
		&fs.PathError{Op: "read", Path: "/f", Err: unix.EIO}: true,
		fmt.Errorf("read segment: %w", unix.ENODATA):         true,
		unix.EBADMSG:        true,
		unix.ENOSPC:         false,
		unix.EINTR:          false,
		io.ErrUnexpectedEOF: false,
		fs.ErrNotExist:      false,
	} {
		if got := Unreadable(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if Unreadable(nil) {
		t.Error("no error is damage")
	}
}
