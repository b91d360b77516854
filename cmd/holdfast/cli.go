package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
)

// cli is the grammar: the global flags, then one field a subcommand.
type cli struct {
	ConfigFile string `name:"config" short:"c" placeholder:"FILE" default:"${config}" predictor:"file" help:"Configuration file (default: ${config})."`
	Socket     string `placeholder:"PATH" predictor:"file" help:"Control socket (default: control.sock in the runtime_dir of the configuration)."`
	JSON       bool   `name:"json" help:"Print JSON."`
	Quiet      bool   `short:"q" help:"Print nothing but errors."`

	Run         runCmd         `cmd:"" help:"Run guard and worker in the foreground."`
	Keygen      keygenCmd      `cmd:"" help:"Make a node key and print its public key."`
	Config      configCmd      `cmd:"" help:"Check a configuration file."`
	Status      statusCmd      `cmd:"" help:"Show this node and what it knows of the others."`
	Failover    failoverCmd    `cmd:"" help:"Move a VIP group to another node, wait, and print the measured gap."`
	Maintenance maintenanceCmd `cmd:"" help:"Make a node not eligible to hold, or eligible again."`
	Fence       fenceCmd       `cmd:"" help:"Make the others drop what a node sends."`
	Unfence     unfenceCmd     `cmd:"" help:"Lift the fence of a node."`
	Audit       auditCmd       `cmd:"" help:"Look at the trail of what was changed and by whom, and check it."`
	Member      memberCmd      `cmd:"" help:"Show and change the members of the cluster."`
	KV          kvCmd          `cmd:"" name:"kv" help:"Read, write and watch the keys of a bucket."`
	Recover     recoverCmd     `cmd:"" help:"Go on from the best copy when a majority of the members has lost its data; offline."`
	WAL         walCmd         `cmd:"" name:"wal" help:"Look at a log on disk, offline and read-only."`
	Reload      reloadCmd      `cmd:"" help:"Make the daemon read its configuration again."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
	Completion  completionCmd  `cmd:"" help:"Print the shell code that completes this command."`
	Worker      workerCmd      `cmd:"" hidden:"" help:"The child process of run; never started by hand."`
}

// app is what a subcommand works with.
type app struct {
	ctx    context.Context
	stdout io.Writer
	stderr io.Writer
	cli    *cli
}

const description = `Keeps a floating address (VIP) on exactly one of several gateways.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 daemon not reachable, ` +
	`4 refused in this state, 5 integrity check failed.`

// exited carries the code of a help text or a completion out of the parser,
// which expects its exit function not to return.
type exited int

// Run is the whole command: it parses args, runs the subcommand and returns
// the exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exited:
			code = int(r)
		default:
			panic(r)
		}
	}()
	grammar := &cli{}
	parser := newParser(grammar, stdout, stderr)
	answerShell(parser)
	parsed, err := parser.Parse(args)
	if err != nil {
		return report(stderr, usageError(err))
	}
	return report(stderr, parsed.Run(&app{ctx: ctx, stdout: stdout, stderr: stderr, cli: grammar}))
}

func newParser(grammar *cli, stdout, stderr io.Writer) *kong.Kong {
	return kong.Must(grammar,
		kong.Name("holdfast"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Vars{"config": config.DefaultFile, "key": config.DefaultKeyFile},
	)
}

func usageError(err error) error {
	hint := "holdfast --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		hint = parse.Context.Selected().FullPath() + " --help"
	}
	return &commandError{code: exitUsage, err: err, hint: hint}
}

// client reaches the daemon of this host.
func (a *app) client() *control.Client { return control.NewClient(a.socket()) }

// socket is the path of the control socket.
func (a *app) socket() string {
	if a.cli.Socket != "" {
		return a.cli.Socket
	}
	return config.LookAt(a.cli.ConfigFile).SocketPath()
}

// show prints the result of a command: v as JSON, or the text for people.
func (a *app) show(v any, format string, args ...any) error {
	switch {
	case a.cli.Quiet:
		return nil
	case a.cli.JSON:
		return a.printJSON(v)
	}
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return wrapPrint(err)
}

func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	return wrapPrint(encoder.Encode(v))
}

func wrapPrint(err error) error {
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// terminal tells whether w is one.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isTerminal(file.Fd())
}
