package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// CheckFree returns nil when no worker has the data directory, an error that
// wraps ErrInUse when one has. A directory that does not exist is free.
func CheckFree(fsys vfs.FS, dir string) error {
	lock, err := fsys.Lock(filepath.Join(dir, fileLock))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("data directory %s: %w", dir, ErrInUse)
	case err != nil:
		return fmt.Errorf("look at lock of data directory: %w", err)
	}
	return lock.Close()
}
