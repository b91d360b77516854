package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/posener/complete"
	"github.com/willabides/kongplete"

	"github.com/holdfast-ha/holdfast/internal/config"
)

// The shells call the binary itself for completions (COMP_LINE is set then).
var completionScripts = map[string]string{
	"bash": "complete -C %s holdfast\n",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit\ncomplete -C %s holdfast\n",
	"fish": `function __complete_holdfast
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    %s
end
complete -f -c holdfast -a "(__complete_holdfast)"
`,
}

type completionCmd struct {
	Shell string `arg:"" optional:"" enum:"bash,zsh,fish,auto" default:"auto" help:"bash, zsh or fish (default: that of $$SHELL)."`
}

func (c *completionCmd) Run(a *app) error {
	if c.Shell == "auto" {
		c.Shell = filepath.Base(os.Getenv("SHELL"))
	}
	script, ok := completionScripts[c.Shell]
	if !ok {
		return &commandError{code: exitUsage, err: fmt.Errorf("no completion for shell %q", c.Shell), hint: "holdfast completion bash|zsh|fish"}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own path: %w", err)
	}
	_, err = fmt.Fprintf(a.stdout, script, quote(self))
	return wrapPrint(err)
}

func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

// answerShell completes a line and ends the command when a shell is asking.
func answerShell(parser *kong.Kong) {
	if os.Getenv("COMP_LINE") == "" {
		return
	}
	nodes := complete.PredictFunc(func(complete.Args) []string {
		return config.LookAt(config.DefaultFile).Members
	})
	kongplete.Complete(parser,
		kongplete.WithPredictor("file", complete.PredictFiles("*")),
		kongplete.WithPredictor("node", nodes))
}
