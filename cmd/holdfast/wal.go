package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

type walCmd struct {
	Inspect walInspectCmd `cmd:"" help:"List every record on disk, past damage too."`
	Verify  walVerifyCmd  `cmd:"" help:"Read a log as the daemon would and say whether it is whole."`
}

type walInspectCmd struct {
	Dir string `arg:"" predictor:"file" help:"Directory of the log."`
}

type walVerifyCmd struct {
	Dir string `arg:"" predictor:"file" help:"Directory of the log."`
}

// walItem is one record as JSON, one a line.
type walItem struct {
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Batch   uint64 `json:"batch"`
	Type    uint8  `json:"type"`
	Index   uint64 `json:"index"`
	Term    uint64 `json:"term"`
	Length  int    `json:"length"`
	State   string `json:"state"`
	Why     string `json:"why,omitempty"`
}

// walSummary is what the log amounts to.
type walSummary struct {
	Verdict    string `json:"verdict"`
	Segments   int    `json:"segments"`
	Records    int    `json:"records"`
	FirstIndex uint64 `json:"first_index"`
	LastIndex  uint64 `json:"last_index"`
	TornBytes  int64  `json:"torn_bytes"`
	Why        string `json:"why,omitempty"`
}

func (c *walInspectCmd) Run(a *app) error {
	lines := json.NewEncoder(a.stdout)
	recovery, err := wal.Inspect(vfs.OS, c.Dir, func(i wal.Item) error {
		if a.ctx.Err() != nil {
			return a.ctx.Err()
		}
		if a.cli.Quiet {
			return nil
		}
		if a.cli.JSON {
			return wrapPrint(lines.Encode(walItem{
				Segment: i.Segment, Offset: i.Offset, Batch: i.Batch, Type: i.Type, Index: i.Index,
				Term: i.Term, Length: i.Length, State: i.State.String(), Why: i.Why,
			}))
		}
		_, err := fmt.Fprintf(a.stdout, "%s offset %d batch %d type %d index %d term %d length %d: %s%s\n",
			i.Segment, i.Offset, i.Batch, i.Type, i.Index, i.Term, i.Length, i.State, because(i.Why))
		return wrapPrint(err)
	})
	return walResult(a, c.Dir, recovery, err, a.cli.JSON)
}

func (c *walVerifyCmd) Run(a *app) error {
	recovery, err := wal.Verify(vfs.OS, c.Dir)
	return walResult(a, c.Dir, recovery, err, false)
}

// walResult prints the summary and turns damage into its exit code. listed
// means that standard output is a stream of records already.
func walResult(a *app, dir string, r wal.Recovery, err error, listed bool) error {
	damaged := errors.Is(err, wal.ErrCorrupt)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &commandError{code: exitUsage, err: err, hint: "name the directory of the log, wal in the data_dir"}
	case err != nil && !damaged:
		return err
	}
	if !listed {
		summary := walSummary{
			Verdict: strings.ToLower(r.Verdict.String()), Segments: r.Segments, Records: r.Records,
			FirstIndex: r.FirstIndex, LastIndex: r.LastIndex, TornBytes: r.TornBytes, Why: r.Why,
		}
		if e := a.show(summary, "%s: %s, %s, %s, last index %d%s\n", dir, summary.Verdict,
			count(r.Segments, "segment", "segments"), count(r.Records, "record", "records"), r.LastIndex, because(r.Why)); e != nil {
			return errors.Join(e, err)
		}
	}
	if damaged {
		return &commandError{code: exitIntegrity, err: err,
			hint: "keep the directory as evidence; the other members keep the cluster alive without this node"}
	}
	return nil
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}
