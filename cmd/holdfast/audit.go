package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage/audit"
)

type auditCmd struct {
	List   auditListCmd   `cmd:"" help:"Show who changed what, and when."`
	Verify auditVerifyCmd `cmd:"" help:"Check the chain of the trail, or of an exported file."`
	Export auditExportCmd `cmd:"" help:"Write the trail as lines of JSON that verify reads."`
}

type auditListCmd struct {
	From uint64   `placeholder:"N" help:"Begin with record N (default: the oldest that is kept)."`
	Kind []string `placeholder:"KIND" help:"Only these kinds of events, separated by commas."`
}

type auditVerifyCmd struct {
	File string `arg:"" optional:"" predictor:"file" help:"Exported file, - for standard input (default: ask the daemon)."`
	Live bool   `help:"Compare the file with the trail of the running cluster too."`
}

type auditExportCmd struct {
	Out  string `short:"o" name:"out" placeholder:"FILE" predictor:"file" help:"File to write, mode 0600; replaced as a whole (default: standard output)."`
	From uint64 `placeholder:"N" help:"Begin with record N (default: the oldest that is kept)."`
}

// auditSummary is what verify has to say.
type auditSummary struct {
	Verdict string       `json:"verdict"` // whole or broken
	Records int          `json:"records"`
	Anchor  *audit.Point `json:"anchor,omitempty"` // the record before the first
	Head    *audit.Point `json:"head,omitempty"`   // the newest record
	Record  uint64       `json:"record,omitempty"` // that is not as it was written
	Line    int          `json:"line,omitempty"`   // on which it should stand
	Why     string       `json:"why,omitempty"`
}

func (c *auditListCmd) Run(a *app) error {
	trail, err := a.trail(c.From)
	if err != nil {
		return err
	}
	lines := json.NewEncoder(a.stdout)
	lines.SetEscapeHTML(false)
	_, err = audit.ReadExport(bytes.NewReader(trail), func(e audit.Event) error {
		if a.cli.Quiet || len(c.Kind) > 0 && !slices.Contains(c.Kind, e.Kind) {
			return nil
		}
		if a.cli.JSON {
			return wrapPrint(lines.Encode(e))
		}
		_, err := fmt.Fprintln(a.stdout, eventText(e))
		return wrapPrint(err)
	})
	return auditDamage(err)
}

// eventText is one line for people.
func eventText(e audit.Event) string {
	about := make([]string, 0, 3)
	if e.Node != "" {
		about = append(about, e.Node)
	}
	if e.Group != "" {
		about = append(about, "group "+e.Group)
	}
	if e.Epoch != 0 {
		about = append(about, fmt.Sprintf("epoch %d", e.Epoch))
	}
	parts := make([]string, 0, 3)
	for _, p := range []string{strings.Join(about, " "), e.Cause, e.Detail} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	text := fmt.Sprintf("%5d  %s  %-14s  %s", e.Seq, time.Unix(0, e.At).UTC().Format("2006-01-02T15:04:05.000Z"), e.Kind, strings.Join(parts, ": "))
	if e.Actor != "" {
		text += " [" + e.Actor + "]"
	}
	return strings.TrimRight(printable(text), " ")
}

// printable makes what a terminal could take for a command visible: some texts
// come from elsewhere.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func (c *auditVerifyCmd) Run(a *app) error {
	if c.File == "" {
		if c.Live {
			return &commandError{code: exitUsage, err: errors.New("--live compares a file, and none is named"), hint: "holdfast audit verify FILE --live"}
		}
		trail, err := a.trail(0)
		if err != nil {
			return err
		}
		_, err = verifyTrail(a, bytes.NewReader(trail))
		return err
	}
	file, err := a.openExport(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // read only
	summary, err := verifyTrail(a, file)
	if err != nil || !c.Live {
		return err
	}
	return compareLive(a, summary.Head)
}

// verifyTrail checks an export and prints what it amounts to.
func verifyTrail(a *app, r io.Reader) (audit.Summary, error) {
	s, err := audit.VerifyExport(r)
	var tampered *audit.TamperError
	switch {
	case err == nil:
		records := "no records"
		if s.Records > 0 {
			records = fmt.Sprintf("%s, %d to %d", count(s.Records, "record", "records"), s.Anchor.Seq+1, s.Head.Seq)
		}
		result := auditSummary{Verdict: "whole", Records: s.Records, Anchor: &s.Anchor, Head: &s.Head}
		return s, a.show(result, "whole: %s\nhead %d %x\n", records, s.Head.Seq, s.Head.Hash)
	case errors.As(err, &tampered) && a.cli.JSON:
		result := auditSummary{Verdict: "broken", Record: tampered.Seq, Line: tampered.Line, Why: tampered.What}
		if e := a.printJSON(result); e != nil {
			return s, errors.Join(e, err)
		}
	}
	return s, auditDamage(err)
}

// The daemon answers with the trail as its node has it, which may be a moment
// behind that of the node that an export came from.
const (
	liveTries = 10
	livePause = 100 * time.Millisecond
)

// compareLive checks that head stands in the chain of the running cluster.
func compareLive(a *app, head audit.Point) error {
	var s audit.Summary
	for range liveTries {
		trail, err := a.trail(head.Seq + 1)
		if err != nil {
			return err
		}
		if s, err = audit.VerifyExport(bytes.NewReader(trail)); err != nil {
			return auditDamage(err)
		}
		if s.Anchor.Seq >= head.Seq {
			break
		}
		select {
		case <-a.ctx.Done():
			return a.ctx.Err()
		case <-time.After(livePause):
		}
	}
	return judgeLive(a, s.Anchor, head)
}

// judgeLive compares the head of a file with what the cluster has at its place:
// the anchor of an export from there on.
func judgeLive(a *app, anchor, head audit.Point) error {
	switch {
	case anchor.Seq > head.Seq:
		return &commandError{
			code: exitRefused, err: fmt.Errorf("compare with the cluster: it keeps nothing before record %d, the file ends with %d", anchor.Seq, head.Seq),
			hint: "compare with a later export, whose chain holds the head of this one",
		}
	case anchor.Seq < head.Seq:
		return &commandError{
			code: exitIntegrity, err: fmt.Errorf("compare with the cluster: its trail ends with record %d, that of the file with %d", anchor.Seq, head.Seq),
			hint: "is it an export of this cluster? if so, compare with the other members before you go on",
		}
	case anchor.Hash != head.Hash:
		return &commandError{
			code: exitIntegrity, err: fmt.Errorf("compare with the cluster: record %d has the hash %x there and %x in the file", head.Seq, anchor.Hash, head.Hash),
			hint: "is it an export of this cluster? keep the file as evidence, and compare with the other members",
		}
	}
	if a.cli.JSON {
		return nil // the summary says it: nothing more to add to one document
	}
	return a.show(nil, "the cluster has the same record %d\n", head.Seq)
}

// auditDamage gives a broken chain its exit code.
func auditDamage(err error) error {
	var tampered *audit.TamperError
	if !errors.As(err, &tampered) {
		return err
	}
	return &commandError{
		code: exitIntegrity, err: fmt.Errorf("verify audit trail: %w", err),
		hint: "keep it as evidence, and compare with the other members: holdfast audit verify",
	}
}

// openExport opens a file that export has written.
func (a *app) openExport(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &commandError{code: exitUsage, err: err, hint: "write one: holdfast audit export -o " + path}
	case errors.Is(err, fs.ErrPermission):
		return nil, &commandError{code: exitUsage, err: err, hint: "run it with sudo"}
	case err != nil:
		return nil, err
	}
	return file, nil
}

func (c *auditExportCmd) Run(a *app) error {
	trail, err := a.trail(c.From)
	if err != nil {
		return err
	}
	s, err := audit.VerifyExport(bytes.NewReader(trail))
	if err != nil {
		return auditDamage(err)
	}
	if c.Out == "" {
		_, err := a.stdout.Write(trail)
		return wrapPrint(err)
	}
	if err := vfs.OS.WriteFile(c.Out, trail, 0o600); err != nil {
		return &commandError{code: exitFailed, err: fmt.Errorf("write audit export: %w", err), hint: "write elsewhere: -o FILE"}
	}
	result := auditSummary{Verdict: "whole", Records: s.Records, Anchor: &s.Anchor, Head: &s.Head}
	return a.show(result, "%s: %s\nhead %d %x\n", c.Out, count(s.Records, "record", "records"), s.Head.Seq, s.Head.Hash)
}

// trail asks the daemon for the trail from a record on, as lines of JSON. They
// are read as a whole before anything is printed: a reader that pauses, a
// pager for one, would otherwise run into the time limits of the daemon.
func (a *app) trail(from uint64) ([]byte, error) {
	text, err := askAudit(a.ctx, a.socket(), from)
	if err != nil {
		return nil, fmt.Errorf("read audit trail: %w", err)
	}
	return text, nil
}

func askAudit(ctx context.Context, path string, from uint64) ([]byte, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) {
				err = op.Err
			}
			return nil, &control.UnreachableError{Path: path, Err: err}
		}
		return conn, nil
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://holdfast/v1/audit?from=%d", from), nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }() // all that matters was read
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		var refused struct {
			Error *control.Error `json:"error"`
		}
		if json.Unmarshal(text, &refused) != nil || refused.Error == nil {
			return nil, fmt.Errorf("daemon answered %s", answer.Status)
		}
		return nil, refused.Error
	}
	return text, nil
}
