// Package page keeps documents of which programs write parts: each part stands
// between two comments that name it, and what people wrote around it stays.
package page

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Put replaces the part of a file, or adds it at the end of a file that lacks
// it. The text is Markdown without the comments.
func Put(file, part, text string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read page: %w", err)
	}
	next, err := replace(string(old), part, text)
	if err != nil {
		return fmt.Errorf("write part %q of %s: %w", part, file, err)
	}
	if err := os.WriteFile(file, []byte(next), 0o644); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

func replace(old, part, text string) (string, error) {
	begin, end := "<!-- begin "+part+" -->\n", "<!-- end "+part+" -->\n"
	if strings.Contains(text, "<!-- begin ") || strings.Contains(text, "<!-- end ") {
		return "", errors.New("the text holds a mark of its own")
	}
	text = strings.TrimRight(text, "\n") + "\n"
	switch strings.Count(old, begin) {
	case 0:
		if old != "" {
			old = strings.TrimRight(old, "\n") + "\n\n"
		}
		return old + begin + text + end, nil
	case 1:
	default:
		return "", errors.New("the part is there more than once")
	}
	before, rest, _ := strings.Cut(old, begin)
	_, after, found := strings.Cut(rest, end)
	if !found {
		return "", errors.New("the part has no end")
	}
	return before + begin + text + end + after, nil
}
