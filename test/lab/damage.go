package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Damage to what a member has on disk.

// Flip inverts a bit of a byte of a file and syncs it, as a disk does that
// rots; the member may run. Undo puts the byte back where the file still has
// that name.
func (c *Cluster) Flip(node, file string, offset int64) (*Fault, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	if rel, err := filepath.Rel(m.dir, file); err != nil || strings.HasPrefix(rel, "..") {
		return nil, fmt.Errorf("flip a bit of %s: it is no file of %s", file, node)
	}
	var old byte
	f := c.fault(fmt.Sprintf("flip a bit of %s at %d", filepath.Base(file), offset), func() error {
		_, err := exchange(file, offset, func(byte) byte { return old })
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	old, err = exchange(file, offset, func(b byte) byte { return b ^ 0x10 })
	return f, err
}

// exchange changes one byte of a file in place and returns what it was.
func exchange(name string, offset int64, change func(byte) byte) (byte, error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("open to change a byte: %w", err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], offset); err != nil {
		return 0, fmt.Errorf("read byte %d of %s: %w", offset, name, err)
	}
	old := b[0]
	b[0] = change(old)
	if _, err := file.WriteAt(b[:], offset); err != nil {
		return 0, fmt.Errorf("write byte %d of %s: %w", offset, name, err)
	}
	if err := file.Sync(); err != nil {
		return 0, fmt.Errorf("sync %s: %w", name, err)
	}
	return old, nil
}

// WipeData removes everything in a member's data directory, as a new disk in
// its place does. The member must not run. There is no way back.
func (c *Cluster) WipeData(node string) (*Fault, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	if m.guard() != nil {
		return nil, fmt.Errorf("wipe data of %s: it runs", node)
	}
	f := c.fault("wipe data of "+node, nil)
	entries, err := os.ReadDir(m.dataDir())
	if err != nil {
		return nil, fmt.Errorf("wipe data of %s: %w", node, err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(m.dataDir(), e.Name())); err != nil {
			return nil, fmt.Errorf("wipe data of %s: %w", node, err)
		}
	}
	return f, nil
}

// DataFiles returns the files below a member's data directory whose content
// begins with magic, all for "", without what was set aside. Oldest name first.
func (c *Cluster) DataFiles(node, magic string) ([]string, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	var found []string
	err = filepath.WalkDir(m.dataDir(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone in between
			return nil
		case err != nil:
			return err
		case strings.Contains(d.Name(), asideMark) && d.IsDir():
			return fs.SkipDir
		case d.IsDir() || strings.Contains(d.Name(), asideMark):
			return nil
		}
		if has, err := hasPrefix(path, magic); err != nil || !has {
			return err
		}
		found = append(found, path)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list data of %s: %w", node, err)
	}
	return found, nil
}

func hasPrefix(name, magic string) (bool, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	head := make([]byte, len(magic))
	n, _ := file.ReadAt(head, 0) // a shorter file has another beginning
	return string(head[:n]) == magic, nil
}

// asideMark is in the name of everything that a member has set aside.
const asideMark = ".aside-"

// Evidence returns the names that a member has set aside in its data
// directory, without their path.
func (c *Cluster) Evidence(node string) ([]string, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(m.dataDir())
	if err != nil {
		return nil, fmt.Errorf("list evidence of %s: %w", node, err)
	}
	var found []string
	for _, e := range entries {
		if strings.Contains(e.Name(), asideMark) {
			found = append(found, e.Name())
		}
	}
	return found, nil
}
