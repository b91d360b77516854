package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table is one table of the file while it is read: its values beside their
// places. Every key that is asked for is known; finish refuses the others.
type table struct {
	r      *reader
	name   string // "" for the top level, "member" for every [[member]]
	values map[string]any
	place  *node
	asked  []string
}

// key is the full name of a key, as the documentation has it. A key that the
// file has to quote is quoted here too.
func (t *table) key(key string) string {
	if nameProblem(key) != "" || key == "" {
		key = strconv.Quote(key)
	}
	if t.name == "" {
		return key
	}
	return t.name + "." + key
}

// line is where the key is set, or where its table begins.
func (t *table) line(key string) int {
	if n := t.place.child(key); n != nil {
		return n.line
	}
	return t.top()
}

func (t *table) top() int {
	if t.place == nil {
		return 1
	}
	return t.place.line
}

func (t *table) bad(key, fix, format string, args ...any) {
	t.r.add(t.line(key), t.key(key), fmt.Sprintf(format, args...), fix)
}

func (t *table) get(key string) (any, bool) {
	if !slices.Contains(t.asked, key) {
		t.asked = append(t.asked, key)
	}
	v, ok := t.values[key]
	return v, ok
}

// str reads a string; def stands for a key that is left out. The second value
// is false when the file has no usable value.
func (t *table) str(key, def string) (string, bool) {
	v, ok := t.get(key)
	if !ok {
		return def, true
	}
	s, ok := v.(string)
	if !ok {
		t.bad(key, `write a text in quotes, such as "`+example(def)+`"`, "%s where a text belongs", kind(v))
	}
	return s, ok
}

// required reads a string that has no default.
func (t *table) required(key, fix string) (string, bool) {
	if _, ok := t.get(key); !ok {
		t.bad(key, fix, "missing")
		return "", false
	}
	s, ok := t.str(key, "")
	if ok && s == "" {
		t.bad(key, fix, "empty")
		return "", false
	}
	return s, ok
}

func (t *table) boolean(key string, def bool) bool {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	b, ok := v.(bool)
	if !ok {
		t.bad(key, "write true or false, without quotes", "%s where true or false belongs", kind(v))
	}
	return b
}

func (t *table) integer(key string, def, low, high int64) int64 {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	fix := fmt.Sprintf("write a whole number from %d to %d", low, high)
	n, ok := v.(int64)
	switch {
	case !ok:
		t.bad(key, fix, "%s where a whole number belongs", kind(v))
		return def
	case n < low || n > high:
		t.bad(key, fix, "%d is outside %d to %d", n, low, high)
		return def
	}
	return n
}

// duration reads a time span within low and high; zero is taken when zeroOK.
func (t *table) duration(key string, def, low, high time.Duration, zeroOK bool) time.Duration {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	fix := fmt.Sprintf(`write a time with its unit from %q to %q`, short(low), short(high))
	if zeroOK && low > 0 {
		fix += ` or "0s"`
	}
	s, ok := v.(string)
	if !ok {
		t.bad(key, fix, "%s where a time belongs", kind(v))
		return def
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		t.bad(key, fix, "%q is not a time", clip(s))
		return def
	case zeroOK && d == 0:
		return 0
	case d < low || d > high:
		t.bad(key, fix, "%s is outside %s to %s", clip(s), short(low), short(high))
		return def
	}
	return d
}

// choice reads one of a few words.
func (t *table) choice(key, def string, known ...string) (string, bool) {
	s, ok := t.str(key, def)
	if !ok {
		return def, false
	}
	if slices.Contains(known, s) {
		return s, true
	}
	fix := "write one of " + strings.Join(known, ", ")
	if near := nearest(s, known); near != "" {
		fix = fmt.Sprintf("write %q (one of %s)", near, strings.Join(known, ", "))
	}
	t.bad(key, fix, "%q is unknown", clip(s))
	return def, false
}

// strings reads a list of texts with 1 to most elements.
func (t *table) strings(key, fix string, most int) ([]string, bool) {
	v, ok := t.get(key)
	if !ok {
		t.bad(key, fix, "missing")
		return nil, false
	}
	list, ok := v.([]any)
	if !ok {
		t.bad(key, fix, "%s where a list of texts belongs", kind(v))
		return nil, false
	}
	if len(list) == 0 || len(list) > most {
		t.bad(key, fix, "%d elements, 1 to %d belong here", len(list), most)
		return nil, false
	}
	out := make([]string, len(list))
	for i, v := range list {
		if out[i], ok = v.(string); !ok {
			t.r.add(t.itemLine(key, i), t.key(key), kind(v)+" where a text belongs", fix)
			return nil, false
		}
	}
	return out, true
}

// itemLine is where element i of a list stands.
func (t *table) itemLine(key string, i int) int {
	if n := t.place.child(key).item(i); n != nil {
		return n.line
	}
	return t.line(key)
}

// sub reads a [table]; a missing one is empty and stands where its parent does.
func (t *table) sub(key string) *table {
	out := &table{r: t.r, name: t.key(key), place: t.place.child(key)}
	if out.place == nil {
		out.place = &node{line: t.top()}
	}
	v, ok := t.get(key)
	if !ok {
		return out
	}
	if out.values, ok = v.(map[string]any); !ok {
		t.bad(key, "write a table: ["+key+"]", "%s where a table belongs", kind(v))
	}
	return out
}

// list reads [[tables]], at most that many.
func (t *table) list(key string, most int) []*table {
	v, ok := t.get(key)
	if !ok {
		return nil
	}
	var values []map[string]any
	switch v := v.(type) {
	case []map[string]any:
		values = v
	case []any:
		for i, item := range v {
			one, ok := item.(map[string]any)
			if !ok {
				t.r.add(t.itemLine(key, i), t.key(key), kind(item)+" where a table belongs", "write [["+key+"]] for each")
				return nil
			}
			values = append(values, one)
		}
	default:
		t.bad(key, "write [["+key+"]] for each, with two brackets", "%s where a list of tables belongs", kind(v))
		return nil
	}
	if len(values) > most {
		t.r.add(t.itemLine(key, most), t.key(key), fmt.Sprintf("%d of them, %d is the limit", len(values), most), "write fewer")
		values = values[:most]
	}
	out := make([]*table, len(values))
	for i, one := range values {
		place := t.place.child(key).item(i)
		if place == nil {
			place = &node{line: t.line(key)}
		}
		out[i] = &table{r: t.r, name: t.key(key), values: one, place: place}
	}
	return out
}

// finish says that the table was read. What is left in it is judged at the
// end, when every key that exists is known.
func (t *table) finish() { t.r.tables = append(t.r.tables, t) }

// unknown refuses every key that nobody asked for.
func (t *table) unknown() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.asked, key) {
			continue
		}
		fix := "remove it, or see docs/configuration.md for the keys that exist"
		if near := nearest(key, t.asked); near != "" {
			fix = fmt.Sprintf("write %q", near)
		} else if at := t.r.belongs(key); at != "" {
			fix = "move it " + at
		}
		t.r.add(t.line(key), clip(t.key(key)), "unknown key", fix)
	}
}

// belongs says in which table a key of that name exists, or "".
func (r *reader) belongs(key string) string {
	for _, t := range r.tables {
		switch {
		case !slices.Contains(t.asked, key):
		case t.name == "":
			return "above the first [table]"
		default:
			return "under [" + t.name + "]"
		}
	}
	return ""
}

// kind names a TOML value for a message.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a text"
	case int64:
		return "a number"
	case float64:
		return "a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	}
	return "something else"
}

func example(def string) string {
	if def == "" {
		return "…"
	}
	return def
}

// clip keeps a quoted value short and on one line.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	if len(s) > 80 {
		cut := strings.ToValidUTF8(s[:77], "")
		return cut + "..."
	}
	return s
}

// short prints a duration without its zero parts: 10m, not 10m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
