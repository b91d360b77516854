package vfs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Unreadable tells whether the error of a read says that the medium has lost
// what was there, which is damage as a wrong checksum is, and not that reading
// failed for a reason that may pass.
func Unreadable(err error) bool {
	for _, lost := range []error{
		unix.EIO,       // the device gave up
		unix.ENODATA,   // medium error of a block device
		unix.EILSEQ,    // protection information of a block device
		unix.EBADMSG,   // checksum of a file system
		unix.EUCLEAN,   // structure of a file system
		unix.EREMOTEIO, // target of a block device
	} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}
