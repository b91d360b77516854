package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-ha/holdfast/client"
	"github.com/holdfast-ha/holdfast/internal/control"
)

type kvCmd struct {
	Timeout time.Duration `default:"5s" placeholder:"D" help:"How long to try while there is no quorum or leader (default: 5s)."`

	Put   kvPutCmd   `cmd:"" help:"Set a key, and print the revision of the change."`
	Get   kvGetCmd   `cmd:"" help:"Print the value of a key as it is."`
	Del   kvDelCmd   `cmd:"" help:"Remove a key, and print the revision of the change."`
	List  kvListCmd  `cmd:"" help:"List the keys of a bucket."`
	Watch kvWatchCmd `cmd:"" help:"Show changes of a bucket as they happen, until interrupted."`
}

type kvPutCmd struct {
	Bucket   string         `arg:"" help:"Bucket, such as sessions, tasks or receipts."`
	Key      string         `arg:"" help:"Key."`
	Value    string         `arg:"" help:"Value; - reads it from standard input. One that begins with - comes behind --."`
	IfRev    *uint64        `name:"if-rev" placeholder:"N" xor:"if" help:"Only if the key has this revision; 0 is --if-absent."`
	IfAbsent bool           `name:"if-absent" xor:"if" help:"Only if the key is not there."`
	TTL      *time.Duration `name:"ttl" placeholder:"D" help:"Remove the key after this time, such as 30m."`
}

type kvGetCmd struct {
	Bucket string `arg:"" help:"Bucket."`
	Key    string `arg:"" help:"Key."`
	Local  bool   `help:"What this node has, at once and without quorum; it may be old."`
}

type kvDelCmd struct {
	Bucket string  `arg:"" help:"Bucket."`
	Key    string  `arg:"" help:"Key."`
	IfRev  *uint64 `name:"if-rev" placeholder:"N" help:"Only if the key has this revision."`
}

type kvListCmd struct {
	Bucket string `arg:"" help:"Bucket."`
	Prefix string `arg:"" optional:"" help:"Only keys that begin with this."`
	After  string `placeholder:"KEY" help:"Begin behind this key."`
	Limit  int    `default:"1000" placeholder:"N" help:"At most so many keys, 1 to 10000 (default: 1000)."`
	Local  bool   `help:"What this node has, at once and without quorum; it may be old."`
}

type kvWatchCmd struct {
	Bucket string `arg:"" help:"Bucket."`
	Prefix string `arg:"" optional:"" help:"Only keys that begin with this."`
	From   uint64 `placeholder:"REV" help:"Begin with the changes of this revision (default: from now on)."`
	Local  bool   `help:"Begin with what this node has now, without quorum."`
}

// valueMax is more than the daemon takes: it has the better words.
const valueMax = 2 << 20

// kv makes a client of the buckets and the limit of a command. A failover in
// the middle of a script is waited for, a daemon that is not there is not.
func (a *app) kv() (*client.Client, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(a.ctx, a.cli.KV.Timeout)
	return client.New(a.socket(), client.FailUnreachable()), ctx, cancel
}

func (c *kvPutCmd) Run(a *app) error {
	value := []byte(c.Value)
	if c.Value == "-" {
		var err error
		if value, err = io.ReadAll(io.LimitReader(os.Stdin, valueMax)); err != nil {
			return fmt.Errorf("read value from standard input: %w", err)
		}
	}
	options := ifRev(c.IfRev)
	if c.IfAbsent {
		options = append(options, client.IfAbsent())
	}
	if c.TTL != nil {
		options = append(options, client.TTL(*c.TTL))
	}
	kv, ctx, cancel := a.kv()
	defer cancel()
	defer kv.Close()
	rev, err := kv.Put(ctx, c.Bucket, c.Key, value, options...)
	return a.revised("put", rev, err)
}

func ifRev(rev *uint64) []client.WriteOption {
	switch {
	case rev == nil:
		return nil
	case *rev == 0:
		return []client.WriteOption{client.IfAbsent()}
	}
	return []client.WriteOption{client.IfRev(*rev)}
}

func (c *kvDelCmd) Run(a *app) error {
	if c.IfRev != nil && *c.IfRev == 0 {
		return &commandError{code: exitUsage, err: errors.New("kv del: no key has revision 0"), hint: "leave --if-rev out"}
	}
	kv, ctx, cancel := a.kv()
	defer cancel()
	defer kv.Close()
	rev, err := kv.Delete(ctx, c.Bucket, c.Key, ifRev(c.IfRev)...)
	return a.revised("del", rev, err)
}

// revised prints the outcome of a write.
func (a *app) revised(verb string, rev uint64, err error) error {
	if err != nil {
		return a.kvError(verb, err)
	}
	return a.show(struct {
		Rev uint64 `json:"rev"`
	}{rev}, "revision %d\n", rev)
}

// kvError gives a failure its exit code and hint.
func (a *app) kvError(verb string, err error) error {
	err = fmt.Errorf("kv %s: %w", verb, err)
	if errors.Is(err, context.Canceled) {
		return err
	}
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Code == client.Unreachable || e.Code == client.Forbidden && e.Unwrap() != nil {
		away := &control.UnreachableError{Path: a.socket(), Err: e.Unwrap()}
		return &commandError{code: exitUnreachable, err: err, hint: unreachableHint(away)}
	}
	return &commandError{code: refusedCode(control.Code(e.Code)), err: err, hint: e.Hint}
}

// kvItem is a key as get prints it.
type kvItem struct {
	Key     string     `json:"key"`
	Rev     uint64     `json:"rev"`
	Value   []byte     `json:"value"` // base64
	Expires *time.Time `json:"expires"`
}

func (c *kvGetCmd) Run(a *app) error {
	kv, ctx, cancel := a.kv()
	defer cancel()
	defer kv.Close()
	item, err := kv.Get(ctx, c.Bucket, c.Key, local(c.Local)...)
	switch {
	case err != nil:
		return a.kvError("get", err)
	case a.cli.Quiet:
		return nil
	case a.cli.JSON:
		return a.printJSON(kvItem{Key: item.Key, Rev: item.Rev, Value: item.Value, Expires: when(item.Expires)})
	}
	_, err = a.stdout.Write(item.Value)
	if err == nil && terminal(a.stdout) {
		_, err = io.WriteString(a.stdout, "\n") // for the prompt that follows
	}
	return wrapPrint(err)
}

func local(on bool) []client.ReadOption {
	if on {
		return []client.ReadOption{client.Local()}
	}
	return nil
}

// when is a time, or nil for none.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// kvKey is a key as list prints it.
type kvKey struct {
	Key     string     `json:"key"`
	Rev     uint64     `json:"rev"`
	Size    int        `json:"size"`
	Expires *time.Time `json:"expires"`
}

type kvPage struct {
	Keys  []kvKey   `json:"keys"`
	Next  string    `json:"next"`
	Rev   uint64    `json:"rev"`
	Clock time.Time `json:"clock"`
}

func (c *kvListCmd) Run(a *app) error {
	if c.Limit < 1 {
		return &commandError{code: exitUsage, err: fmt.Errorf("kv list: --limit %d", c.Limit), hint: "1 to 10000"}
	}
	kv, ctx, cancel := a.kv()
	defer cancel()
	defer kv.Close()
	page, err := kv.List(ctx, c.Bucket, client.ListOptions{Prefix: c.Prefix, After: c.After, Limit: c.Limit, Local: c.Local})
	switch {
	case err != nil:
		return a.kvError("list", err)
	case a.cli.Quiet:
		return nil
	case a.cli.JSON:
		out := kvPage{Keys: make([]kvKey, 0, len(page.Keys)), Next: page.Next, Rev: page.Rev, Clock: page.Clock}
		for _, k := range page.Keys {
			out.Keys = append(out.Keys, kvKey{k.Key, k.Rev, k.Size, when(k.Expires)})
		}
		return a.printJSON(out)
	}
	return c.table(a, page)
}

func (c *kvListCmd) table(a *app, page client.Page) error {
	if len(page.Keys) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "KEY\tREV\tSIZE\tEXPIRES") // Flush tells
	for _, k := range page.Keys {
		expires := "never"
		if !k.Expires.IsZero() {
			expires = "in " + max(k.Expires.Sub(page.Clock), 0).Round(time.Second).String()
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", keyText(k.Key), k.Rev, k.Size, expires)
	}
	if err := w.Flush(); err != nil {
		return wrapPrint(err)
	}
	if page.Next != "" {
		_, err := fmt.Fprintf(a.stderr, "more: --after %s\n", shellWord(page.Next))
		return wrapPrint(err)
	}
	return nil
}

// keyText shows a key in one line: as it is when that is plain, else quoted.
func keyText(key string) string {
	plain := !strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == '"' })
	if plain {
		return key
	}
	return strconv.Quote(key)
}

// shellWord is a key as a shell takes it.
func shellWord(key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(key)
	}
	return quote(key)
}

// kvEvent is an event as watch prints it.
type kvEvent struct {
	Type    string     `json:"type"`
	Key     string     `json:"key"`
	Rev     uint64     `json:"rev"`
	Value   *[]byte    `json:"value,omitempty"` // base64
	Created uint64     `json:"created,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
}

func (c *kvWatchCmd) Run(a *app) error {
	kv, ctx, cancel := a.kv()
	defer cancel()
	defer kv.Close()
	// The limit is for the beginning; later failures are waited for.
	begin, started := context.WithCancel(a.ctx)
	defer started()
	stop := context.AfterFunc(ctx, started)
	w, err := kv.Watch(begin, c.Bucket, client.WatchOptions{Prefix: c.Prefix, From: c.From, Local: c.Local})
	inTime := stop()
	if err != nil {
		return c.ended(a, err, inTime)
	}
	defer w.Close()
	lines := json.NewEncoder(a.stdout)
	for {
		e, err := w.Next()
		if err != nil {
			return c.ended(a, err, true)
		}
		switch {
		case a.cli.Quiet:
		case a.cli.JSON:
			out := kvEvent{Type: e.Type, Key: e.Key, Rev: e.Rev, Created: e.Created, Expires: when(e.Expires)}
			if e.Type == "put" {
				out.Value = &e.Value
			}
			err = lines.Encode(out)
		default:
			_, err = fmt.Fprintln(a.stdout, eventLine(e))
		}
		if err != nil {
			return wrapPrint(err)
		}
	}
}

// ended is how a watch ends: by an interrupt, which is its normal end, or for
// a reason.
func (c *kvWatchCmd) ended(a *app, err error, inTime bool) error {
	if a.ctx.Err() != nil {
		return nil
	}
	var e *client.Error
	if !inTime && errors.As(err, &e) && errors.Is(err, context.Canceled) {
		// The limit ended it: what matters is why it took so long.
		return &commandError{code: refusedCode(control.Code(e.Code)), err: fmt.Errorf("kv watch: %w", err), hint: e.Hint}
	}
	return a.kvError("watch", err)
}

// valueShown bounds what a watch shows of a value.
const valueShown = 80

// eventLine is one line for people.
func eventLine(e client.Event) string {
	text := fmt.Sprintf("%-6s  %6d  %s", e.Type, e.Rev, keyText(e.Key))
	if e.Type != "put" {
		return text
	}
	value, more := e.Value, ""
	if len(value) > valueShown {
		value, more = value[:valueShown], "..."
		for !utf8.Valid(value) && len(value) > valueShown-utf8.UTFMax && utf8.Valid(e.Value) {
			value = value[:len(value)-1]
		}
	}
	return text + "  " + strconv.Quote(string(value)) + more
}
