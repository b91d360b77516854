package config

import (
	"path/filepath"

	"github.com/BurntSushi/toml"
)

// Glance is the little that a command line needs of a file, taken as it is.
type Glance struct {
	RuntimeDir string
	Members    []string
}

// LookAt takes what it can of a file that may be missing, unreadable or wrong:
// a command must reach the daemon also while its file is being edited. What is
// not there has its default.
func LookAt(path string) Glance {
	glance := Glance{RuntimeDir: DefaultRuntimeDir}
	text, err := read(path)
	if err != nil || len(text) > FileBytesMax || brackets(text) > bracketsMax {
		return glance
	}
	var file struct {
		Node struct {
			RuntimeDir any `toml:"runtime_dir"`
		}
		Member []struct{ Name any }
	}
	if _, err := toml.Decode(string(text), &file); err != nil {
		return glance
	}
	if dir, ok := file.Node.RuntimeDir.(string); ok && filepath.IsAbs(dir) {
		glance.RuntimeDir = filepath.Clean(dir)
	}
	for _, m := range file.Member {
		if name, ok := m.Name.(string); ok && nameProblem(name) == "" && name != "" {
			glance.Members = append(glance.Members, name)
		}
	}
	return glance
}

// SocketPath is where the control socket of that node lives.
func (g Glance) SocketPath() string { return g.RuntimeDir + "/" + SocketName }
