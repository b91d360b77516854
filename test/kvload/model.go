package kvload

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// kind is what a step does to a key.
type kind uint8

const (
	stepGet kind = iota
	stepPut
	stepCreate // if absent
	stepSwap   // if the revision is so
	stepDelete
)

func (k kind) String() string { return [...]string{"get", "put", "create", "swap", "delete"}[k] }

// step is what one request asks of one key. A transaction has one for each of
// its keys.
type step struct {
	Kind  kind
	Key   string
	Value string // of a write
	If    uint64 // of a swap: the revision
}

// outcome is what the client was told of a step.
type outcome struct {
	Unknown bool   // it may have happened, or may happen later
	Done    bool   // the write was executed; a get found the key
	Value   string // of a get that found the key
	Rev     uint64 // new, or found; 0 = not told
}

// cell is the state of one key. Rev 0 is a revision that nobody was told: of
// a write whose outcome is unknown. Floor is below any later revision.
type cell struct {
	Exists bool
	Value  string
	Rev    uint64
	Floor  uint64
}

// write returns the cell after a write with a new revision, 0 for unknown.
func (c cell) write(value string, rev uint64) []cell {
	if rev != 0 && rev <= c.Floor {
		return nil
	}
	return []cell{{Exists: true, Value: value, Rev: rev, Floor: max(c.Floor, rev)}}
}

func (c cell) remove(rev uint64) []cell {
	if rev != 0 && rev <= c.Floor {
		return nil
	}
	return []cell{{Floor: max(c.Floor, rev)}}
}

// next returns every cell that can follow; none when the outcome is wrong.
func (c cell) next(s step, o outcome) []cell {
	switch s.Kind {
	case stepGet:
		return c.get(o)
	case stepPut:
		return c.write(s.Value, o.Rev)
	case stepDelete:
		switch {
		case o.Unknown:
			return c.remove(0)
		case o.Done != c.Exists:
			return nil
		case !o.Done:
			return []cell{c}
		}
		return c.remove(o.Rev)
	}
	return c.conditional(s, o)
}

func (c cell) get(o outcome) []cell {
	if !o.Done {
		if c.Exists {
			return nil
		}
		return []cell{c}
	}
	if !c.Exists || c.Value != o.Value || c.Rev != 0 && c.Rev != o.Rev || c.Rev == 0 && o.Rev <= c.Floor {
		return nil
	}
	c.Rev, c.Floor = o.Rev, max(c.Floor, o.Rev) // now it is known
	return []cell{c}
}

// conditional is create and swap.
func (c cell) conditional(s step, o outcome) []cell {
	met, unmet := !c.Exists, c.Exists
	if s.Kind == stepSwap {
		met = c.Exists && (c.Rev == s.If || c.Rev == 0 && s.If > c.Floor)
		unmet = !c.Exists || c.Rev != s.If
	}
	var all []cell
	if met && (o.Unknown || o.Done) {
		from := c
		if s.Kind == stepSwap {
			from.Floor = max(c.Floor, s.If)
		}
		all = append(all, from.write(s.Value, o.Rev)...)
	}
	if unmet && (o.Unknown || !o.Done) {
		all = append(all, c)
	}
	return all
}

// model is one key as porcupine wants it.
var model = porcupine.NondeterministicModel{
	Init: func() []any { return []any{cell{}} },
	Step: func(state, input, output any) []any {
		var all []any
		for _, c := range state.(cell).next(input.(step), output.(outcome)) {
			all = append(all, c)
		}
		return all
	},
	Equal: func(a, b any) bool { return a.(cell) == b.(cell) },
	DescribeOperation: func(input, output any) string {
		return describe(input.(step), output.(outcome))
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}

func describe(s step, o outcome) string {
	text := s.Kind.String() + " " + s.Key
	if s.Kind == stepSwap {
		text += fmt.Sprintf(" if %d", s.If)
	}
	if s.Value != "" {
		text += " = " + s.Value
	}
	switch {
	case o.Unknown:
		return text + ": unknown"
	case !o.Done:
		return text + ": no"
	}
	return fmt.Sprintf("%s: %s rev %d", text, o.Value, o.Rev)
}
