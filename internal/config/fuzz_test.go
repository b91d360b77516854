package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// FuzzParse demands: no crash; a valid file gives a configuration that its
// users can work with; an invalid one gives problems that each name a line of
// the file; and whatever the library accepts, the scanner follows to the same
// keys, else a problem would name a wrong line.
func FuzzParse(f *testing.F) {
	f.Add(base)                                                          // valid
	f.Add("a.\"b\\u0041\".'c' = [1, [2, {d = \"\\\"]\"}], # ]\n]\n")     // every kind of key and nesting
	f.Add("[[a]]\n[a.b]\nc = \"\"\"\\\n\"\" \"\"\"\"\"\n[[a]]\n[a.b]\n") // headers below arrays, quotes at the end
	f.Add("a = '''\n''''\r\nb = 1979-05-27 07:32:00 # date with a blank\n")
	f.Add("\xef\xbb\xbfcluster = \"bom\"\n")
	f.Add("x = " + strings.Repeat("[", 100)) // must not recurse for ever
	f.Add("[node]\nname = {first = \"a\",\n}\n")
	f.Add("\"\" = 1\n\"\" = 2\n") // keys of no characters once gave a problem without a key
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f.toml", []byte(text))
		if err == nil {
			_, _, _ = c.Self(), c.Groups(), c.Warnings()
			if changes := Diff(c, c); len(changes) != 0 {
				t.Fatalf("differs from itself: %+v", changes)
			}
			if c.Timing.Check() != nil || len(c.Members) < 3 || len(c.VIPs) == 0 {
				t.Fatalf("accepted %+v", c)
			}
			return
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("error without problems: %v", err)
		}
		last := 1 + strings.Count(text, "\n")
		for _, p := range problems {
			if p.Line < 1 || p.Line > last || p.Key == "" || strings.Contains(p.String(), "\n") {
				t.Fatalf("bad problem %q of %d lines", p, last)
			}
		}
		follows(t, text)
	})
}

// follows compares the tree of the scanner with that of the library.
func follows(t *testing.T, text string) {
	t.Helper()
	places, err := scan(text)
	if errors.Is(err, errDepth) || brackets([]byte(text)) > bracketsMax {
		return
	}
	values := map[string]any{}
	if _, parseErr := toml.Decode(text, &values); parseErr != nil {
		return
	}
	if err != nil {
		t.Fatalf("library accepts what the scanner stops at in line %d: %v", places.line, err)
	}
	if len(places.duplicates) > 0 {
		t.Fatalf("library accepts duplicates %+v", places.duplicates)
	}
	compare(t, "", values, places.root)
}

func compare(t *testing.T, name string, value any, n *node) {
	t.Helper()
	switch value := value.(type) {
	case map[string]any:
		if len(value) != len(n.keys) {
			t.Fatalf("%q has %d keys, the scanner saw %d", name, len(value), len(n.keys))
		}
		for key, v := range value {
			if n.child(key) == nil {
				t.Fatalf("%q: the scanner missed key %q", name, key)
			}
			compare(t, name+"."+key, v, n.child(key))
		}
	case []map[string]any:
		for i, v := range value {
			compareItem(t, name, v, n, i)
		}
	case []any:
		for i, v := range value {
			compareItem(t, name, v, n, i)
		}
	}
}

func compareItem(t *testing.T, name string, value any, n *node, i int) {
	t.Helper()
	if n.item(i) == nil {
		t.Fatalf("%q: the scanner missed element %d", name, i)
	}
	compare(t, name, value, n.item(i))
}
