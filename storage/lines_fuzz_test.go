package storage

import (
	"bytes"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// FuzzLine: a number in a file of one line has one spelling, and no other text
// is taken for it.
func FuzzLine(f *testing.F) {
	f.Add(formatLine("raft-id", 0xdeadbeef))
	f.Add(formatLine("promise", 0))                                      // of another name
	f.Add([]byte("holdfast raft-id 1 0x1 00000000\n"))                   // another base
	f.Add(bytes.ToUpper(formatLine("raft-id", 0xabcdef)))                // another case
	f.Add(append(formatLine("raft-id", 1), formatLine("raft-id", 1)...)) // twice
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseLine("raft-id", b); err == nil && !bytes.Equal(formatLine("raft-id", v), b) {
			t.Fatalf("%q was read as %x", b, v)
		}
	})
}

// FuzzDataFiles: whatever the small files of a data directory hold, opening it
// ends in an error or in a directory that can be opened again.
func FuzzDataFiles(f *testing.F) {
	line := formatLine(fileRaftID, 7)
	f.Add(line, firstConfig().Encode(), []byte{})
	f.Add(line, []byte{}, []byte(recoveryText+"x\n")) // a recovery that was cut short
	f.Add(line[:9], []byte(firstMagic), []byte(recoveryText))
	f.Add([]byte{}, []byte{}, []byte(recoveryText+"../../x\n")) // a label that leads elsewhere
	f.Fuzz(func(t *testing.T, id, first, marker []byte) {
		fsys := vfs.NewMem()
		if err := fsys.MkdirAll("/d", 0o700); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{fileRaftID: id, fileFirst: first, fileRecovery: marker} {
			if len(b) == 0 {
				continue
			}
			if err := fsys.WriteFile("/d/"+name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d, err := OpenData(fsys, "/d")
		if err != nil {
			return
		}
		was := d.RaftID()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d, err = OpenData(fsys, "/d")
		if err != nil {
			t.Fatalf("opened once, then: %v", err)
		}
		if d.RaftID() != was {
			t.Fatalf("raft id %x, then %x", was, d.RaftID())
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
