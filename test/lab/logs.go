package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// logTail is how much of the end of a log file is looked at.
const logTail = 256 << 10

// logFile returns a new file for the output of the n-th start of a member.
func (l *Lab) logFile(node string, start int) (*os.File, error) {
	dir := filepath.Join(l.Dir, node, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("start-%03d.log", start)), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make log file: %w", err)
	}
	return f, nil
}

// LogFiles returns the log files of a node, one for each start, oldest first.
func (l *Lab) LogFiles(node string) []string {
	files, _ := filepath.Glob(filepath.Join(l.Dir, node, "log", "start-*.log")) // the pattern is good
	slices.Sort(files)
	return files
}

// Logs returns the last lines of every member's every log.
func (l *Lab) Logs(lines int) string {
	var b strings.Builder
	for _, n := range l.Members() {
		for _, file := range l.LogFiles(n.Name) {
			fmt.Fprintf(&b, "--- %s\n%s", file, tail(file, lines))
		}
	}
	return b.String()
}

// LastLogs returns the last lines of every member's newest log.
func (l *Lab) LastLogs(lines int) string {
	var b strings.Builder
	for _, n := range l.Members() {
		if files := l.LogFiles(n.Name); len(files) > 0 {
			last := files[len(files)-1]
			fmt.Fprintf(&b, "--- %s\n%s", last, tail(last, lines))
		}
	}
	return b.String()
}

// tail returns the last lines of a file.
func tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error() + "\n"
	}
	defer f.Close()
	var skip int64
	if st, err := f.Stat(); err == nil {
		skip = max(0, st.Size()-logTail)
	}
	raw := make([]byte, logTail)
	n, _ := f.ReadAt(raw, skip) // a short read is the normal case
	all := bytes.SplitAfter(raw[:n], []byte("\n"))
	if len(all) > 0 && len(all[len(all)-1]) == 0 {
		all = all[:len(all)-1]
	}
	text := bytes.Join(all[max(0, len(all)-lines):], nil)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return string(text)
}
