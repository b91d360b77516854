package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// depthMax bounds nested arrays and inline tables. Nothing in the file needs
// more than three; a parser that recurses must not be led into the deep.
const depthMax = 16

// bracketsMax bounds the brackets of a text that the scanner could not follow.
const bracketsMax = 10_000

// node is the place of one value in the file. The TOML library gives no
// positions for values, so this scanner maps the same tree to lines. It reads
// what the library accepts and leaves judging syntax to it.
type node struct {
	line     int
	keys     map[string]*node // of a table
	items    []*node          // of an array, or of an array of tables
	tables   bool             // items come from [[headers]]
	explicit bool             // a [header] named this table
}

func (n *node) child(key string) *node {
	if n == nil {
		return nil
	}
	return n.keys[key]
}

func (n *node) item(i int) *node {
	if n == nil || i >= len(n.items) {
		return nil
	}
	return n.items[i]
}

// duplicate is a key or table that the file sets twice.
type duplicate struct {
	key         string
	line, first int
}

var (
	errSyntax = errors.New("syntax")
	errDepth  = fmt.Errorf("arrays nested deeper than %d", depthMax)
)

// scanner walks the text once. pos never passes len(text).
type scanner struct {
	text       string
	pos        int
	line       int
	root       *node
	table      *node  // the table that key = value lines go into
	prefix     string // its name, for messages
	duplicates []duplicate
}

// scan maps the text. On an error the tree holds what was read up to there,
// and line says where that was.
func scan(text string) (*scanner, error) {
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if strings.HasPrefix(text, mark) {
			text = text[len(mark):]
			break
		}
	}
	s := &scanner{text: text, line: 1, root: &node{line: 1}}
	s.table = s.root
	for {
		s.blank(true)
		if s.pos == len(s.text) {
			return s, nil
		}
		if err := s.expression(); err != nil {
			return s, err
		}
	}
}

func (s *scanner) peek() byte {
	if s.pos == len(s.text) {
		return 0
	}
	return s.text[s.pos]
}

func (s *scanner) has(prefix string) bool { return strings.HasPrefix(s.text[s.pos:], prefix) }

// skip moves over n bytes that were seen, counting lines.
func (s *scanner) skip(n int) {
	s.line += strings.Count(s.text[s.pos:s.pos+n], "\n")
	s.pos += n
}

// blank skips spaces and comments, and line ends too when lines is set.
func (s *scanner) blank(lines bool) {
	for s.pos < len(s.text) {
		switch c := s.peek(); {
		case c == ' ' || c == '\t' || c == '\r':
			s.pos++
		case c == '\n' && lines:
			s.skip(1)
		case c == '#':
			end := strings.IndexByte(s.text[s.pos:], '\n')
			if end < 0 {
				end = len(s.text) - s.pos
			}
			s.pos += end
		default:
			return
		}
	}
}

func (s *scanner) expression() error {
	var err error
	switch {
	case s.has("[["):
		err = s.header(2)
	case s.has("["):
		err = s.header(1)
	default:
		err = s.assignment(s.table, s.prefix, 0)
	}
	if err != nil {
		return err
	}
	s.blank(false)
	if s.pos < len(s.text) && s.peek() != '\n' {
		return errSyntax
	}
	return nil
}

func (s *scanner) header(brackets int) error {
	line := s.line
	s.pos += brackets
	path, err := s.path()
	if err != nil {
		return err
	}
	if !s.has("]]"[:brackets]) {
		return errSyntax
	}
	s.pos += brackets
	parent := s.root
	for _, key := range path[:len(path)-1] {
		parent = parent.enter(key, line)
	}
	last := path[len(path)-1]
	s.prefix = strings.Join(path, ".")
	if brackets == 2 {
		list := parent.make(last, line)
		list.tables = true
		s.table = &node{line: line}
		list.items = append(list.items, s.table)
		return nil
	}
	if old := parent.child(last); old != nil && old.explicit {
		s.duplicates = append(s.duplicates, duplicate{key: s.prefix, line: line, first: old.line})
	}
	s.table = parent.make(last, line)
	if !s.table.explicit {
		s.table.line, s.table.explicit = line, true
	}
	return nil
}

// make returns the child of that key, new at line when there was none.
func (n *node) make(key string, line int) *node {
	if n.keys == nil {
		n.keys = map[string]*node{}
	}
	if n.keys[key] == nil {
		n.keys[key] = &node{line: line}
	}
	return n.keys[key]
}

// enter goes one step along a header's path: into the last table of an array.
func (n *node) enter(key string, line int) *node {
	next := n.make(key, line)
	if next.tables && len(next.items) > 0 {
		return next.items[len(next.items)-1]
	}
	return next
}

func (s *scanner) assignment(table *node, prefix string, depth int) error {
	line := s.line
	path, err := s.path()
	if err != nil {
		return err
	}
	if s.peek() != '=' {
		return errSyntax
	}
	s.pos++
	for _, key := range path[:len(path)-1] {
		table = table.make(key, line)
	}
	last := path[len(path)-1]
	name := strings.Join(path, ".")
	if prefix != "" {
		name = prefix + "." + name
	}
	if old := table.child(last); old != nil {
		s.duplicates = append(s.duplicates, duplicate{key: name, line: line, first: old.line})
	}
	return s.value(table.make(last, line), name, depth)
}

// path reads a dotted key up to the character after it.
func (s *scanner) path() ([]string, error) {
	var path []string
	for {
		s.blank(false)
		key, err := s.key()
		if err != nil {
			return nil, err
		}
		path = append(path, key)
		s.blank(false)
		if s.peek() != '.' {
			return path, nil
		}
		s.pos++
	}
}

func (s *scanner) key() (string, error) {
	switch s.peek() {
	case '"', '\'':
		return s.quoted()
	}
	start := s.pos
	for s.pos < len(s.text) && !strings.ContainsRune(" \t\r\n.=[]{}#,\"'", rune(s.text[s.pos])) {
		s.pos++
	}
	if s.pos == start {
		return "", errSyntax
	}
	return s.text[start:s.pos], nil
}

func (s *scanner) value(n *node, name string, depth int) error {
	if depth > depthMax {
		return errDepth
	}
	s.blank(false)
	switch {
	case s.has(`"""`) || s.has("'''"):
		return s.multiline()
	case s.has(`"`) || s.has("'"):
		_, err := s.quoted()
		return err
	case s.has("["):
		s.pos++
		return s.list(']', func() error {
			item := &node{line: s.line}
			n.items = append(n.items, item)
			return s.value(item, name, depth+1)
		})
	case s.has("{"):
		s.pos++
		return s.list('}', func() error { return s.assignment(n, name, depth+1) })
	}
	start := s.pos
	for s.pos < len(s.text) && !strings.ContainsRune(",]}#\r\n", rune(s.text[s.pos])) {
		s.pos++
	}
	if strings.TrimSpace(s.text[start:s.pos]) == "" {
		return errSyntax
	}
	return nil
}

// list reads comma separated elements up to the closing bracket.
func (s *scanner) list(end byte, element func() error) error {
	for {
		s.blank(true)
		if s.peek() == end {
			s.pos++
			return nil
		}
		if s.pos == len(s.text) {
			return errSyntax
		}
		if err := element(); err != nil {
			return err
		}
		s.blank(true)
		switch s.peek() {
		case ',':
			s.pos++
		case end:
		default:
			return errSyntax
		}
	}
}

// quoted reads a string of one line and returns what it stands for.
func (s *scanner) quoted() (string, error) {
	quote := s.peek()
	s.pos++
	var out strings.Builder
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case c == quote:
			s.pos++
			return out.String(), nil
		case c == '\n':
			return "", errSyntax
		case c == '\\' && quote == '"':
			r, size, err := unescape(s.text[s.pos:])
			if err != nil {
				return "", err
			}
			out.WriteRune(r)
			s.pos += size
		default:
			out.WriteByte(c)
			s.pos++
		}
	}
	return "", errSyntax
}

// unescape reads one escape sequence and says how many bytes it took.
func unescape(text string) (rune, int, error) {
	if len(text) < 2 {
		return 0, 0, errSyntax
	}
	if i := strings.IndexByte(`btnfre"\`, text[1]); i >= 0 {
		return rune("\b\t\n\f\r\x1b\"\\"[i]), 2, nil
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[text[1]]
	if digits == 0 || len(text) < 2+digits {
		return 0, 0, errSyntax
	}
	code, err := strconv.ParseUint(text[2:2+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(code)) {
		return 0, 0, errSyntax
	}
	return rune(code), 2 + digits, nil
}

// multiline skips a string in three quotes. Up to two quotes may stand just
// before the closing three.
func (s *scanner) multiline() error {
	quotes := s.text[s.pos : s.pos+3]
	s.pos += 3
	for s.pos < len(s.text) {
		switch {
		case s.has(quotes):
			s.pos += 3
			for range 2 {
				if s.peek() == quotes[0] {
					s.pos++
				}
			}
			return nil
		case s.peek() == '\\' && quotes[0] == '"' && s.pos+1 < len(s.text):
			s.skip(2)
		default:
			s.skip(1)
		}
	}
	return errSyntax
}
