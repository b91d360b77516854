package quorum

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger passes raft's lines on. Raft tells every vote at its "info"; here
// that is debug, since the Driver reports what an operator needs. Raft's
// panics are broken invariants and stay panics.
type raftLogger struct{ log *slog.Logger }

func (r raftLogger) line(level slog.Level, v ...any) {
	if r.log.Enabled(context.Background(), level) {
		r.log.Log(context.Background(), level, "raft: "+fmt.Sprint(v...))
	}
}

func (r raftLogger) linef(level slog.Level, format string, v ...any) {
	if r.log.Enabled(context.Background(), level) {
		r.log.Log(context.Background(), level, "raft: "+fmt.Sprintf(format, v...))
	}
}

func (r raftLogger) Debug(v ...any)              { r.line(slog.LevelDebug, v...) }
func (r raftLogger) Debugf(f string, v ...any)   { r.linef(slog.LevelDebug, f, v...) }
func (r raftLogger) Info(v ...any)               { r.line(slog.LevelDebug, v...) }
func (r raftLogger) Infof(f string, v ...any)    { r.linef(slog.LevelDebug, f, v...) }
func (r raftLogger) Warning(v ...any)            { r.line(slog.LevelWarn, v...) }
func (r raftLogger) Warningf(f string, v ...any) { r.linef(slog.LevelWarn, f, v...) }
func (r raftLogger) Error(v ...any)              { r.line(slog.LevelError, v...) }
func (r raftLogger) Errorf(f string, v ...any)   { r.linef(slog.LevelError, f, v...) }
func (r raftLogger) Fatal(v ...any)              { panic("raft: " + fmt.Sprint(v...)) }
func (r raftLogger) Fatalf(f string, v ...any)   { panic("raft: " + fmt.Sprintf(f, v...)) }
func (r raftLogger) Panic(v ...any)              { panic("raft: " + fmt.Sprint(v...)) }
func (r raftLogger) Panicf(f string, v ...any)   { panic("raft: " + fmt.Sprintf(f, v...)) }
