package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/storage/audit"
)

// sampleTrail has n switchovers to and fro and an operator in between.
func sampleTrail(n int) *audit.Trail {
	t := audit.NewTrail(0)
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC).UnixNano()
	for i := range n {
		t.Append(audit.Event{
			Index: uint64(10 + i), Term: 2, At: at + int64(i)*int64(time.Second), Kind: "assign", Node: fmt.Sprintf("gw%d", i%2+1),
			Group: "default", Epoch: uint64(10 + i), Cause: "failover", Detail: fmt.Sprintf("from gw%d, epoch %d", (i+1)%2+1, 9+i),
		})
	}
	t.Append(audit.Event{Index: 90, Term: 2, At: at, Kind: "maintenance", Actor: "uid 0 pid 812", Node: "gw2", Cause: "on\x1b[2J"})
	return t
}

// serveTrail answers as the daemon does, with change applied to what it says.
func serveTrail(t *testing.T, trail *audit.Trail, change func([]byte) []byte) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/audit", func(w http.ResponseWriter, r *http.Request) {
		var from uint64
		if text := r.URL.Query().Get("from"); text != "" {
			if from, err = strconv.ParseUint(text, 10, 64); err != nil {
				t.Errorf("from is %q", text)
			}
		}
		var b bytes.Buffer
		if err := trail.Export(&b, from); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = w.Write(change(b.Bytes()))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Shutdown(context.Background())
		<-done
	})
	return socket
}

func asWritten(b []byte) []byte { return b }

// Covers S15.
func TestAuditList(t *testing.T) {
	socket := serveTrail(t, sampleTrail(3), asWritten)
	for args, want := range map[string]string{
		"list": "" +
			"    1  2026-03-04T05:06:07.089Z  assign          gw1 group default epoch 10: failover: from gw2, epoch 9\n" +
			"    2  2026-03-04T05:06:08.089Z  assign          gw2 group default epoch 11: failover: from gw1, epoch 10\n" +
			"    3  2026-03-04T05:06:09.089Z  assign          gw1 group default epoch 12: failover: from gw2, epoch 11\n" +
			"    4  2026-03-04T05:06:07.089Z  maintenance     gw2: on\uFFFD[2J [uid 0 pid 812]\n",
		"list --from 3 --kind assign": "" +
			"    3  2026-03-04T05:06:09.089Z  assign          gw1 group default epoch 12: failover: from gw2, epoch 11\n",
		"list --from 5":                    "",
		"list --kind fence,recovery":       "",
		"list --quiet":                     "",
		"list --kind maintenance,x --json": `{"seq":4,"index":90,"term":2,"at":"2026-03-04T05:06:07.089Z","kind":"maintenance","actor":"uid 0 pid 812","node":"gw2","cause":"on\u001b[2J","hash":"` + headHash(sampleTrail(3)) + `"}` + "\n",
	} {
		code, out, errs := holdfast(t, append([]string{"audit", "--socket", socket}, strings.Fields(args)...)...)
		if code != 0 || errs != "" || out != want {
			t.Errorf("%s: %d %q\n%s\nwant\n%s", args, code, errs, out, want)
		}
	}
}

func headHash(t *audit.Trail) string {
	_, hash := t.Head()
	return fmt.Sprintf("%x", hash)
}

func TestAuditVerify(t *testing.T) {
	trail := sampleTrail(20)
	socket := serveTrail(t, trail, asWritten)
	code, out, errs := holdfast(t, "audit", "verify", "--socket", socket)
	if want := "whole: 21 records, 1 to 21\nhead 21 " + headHash(trail) + "\n"; code != 0 || out != want || errs != "" {
		t.Errorf("%d %q %q, want %q", code, out, errs, want)
	}
	if code, out, _ := holdfast(t, "-q", "audit", "verify", "--socket", socket); code != 0 || out != "" {
		t.Errorf("quiet: %d %q", code, out)
	}
	code, out, _ = holdfast(t, "--json", "audit", "verify", "--socket", socket)
	var got struct {
		Verdict      string
		Records      int
		Anchor, Head struct {
			Seq  uint64
			Hash string
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("json: %d %v %s", code, err, out)
	}
	if got.Verdict != "whole" || got.Records != 21 || got.Anchor.Seq != 0 || got.Head.Seq != 21 || got.Head.Hash != headHash(trail) {
		t.Errorf("json: %+v", got)
	}
	empty := serveTrail(t, audit.NewTrail(0), asWritten)
	if code, out, _ := holdfast(t, "audit", "verify", "--socket", empty); code != 0 || !strings.HasPrefix(out, "whole: no records\n") {
		t.Errorf("empty: %d %q", code, out)
	}
}

// A trail that is not as it was written ends every subcommand with code 5 and
// the number of the record. Covers S15.
func TestAuditDamageOfTheDaemon(t *testing.T) {
	socket := serveTrail(t, sampleTrail(20), func(b []byte) []byte {
		return bytes.Replace(b, []byte(`"epoch":16,`), []byte(`"epoch":61,`), 1)
	})
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range []string{"verify", "list", "export", "export -o " + out, "list --json -q"} {
		code, _, errs := holdfast(t, append([]string{"audit", "--socket", socket}, strings.Fields(args)...)...)
		if code != exitIntegrity || !strings.Contains(errs, "record 7 (line 8)") || !strings.Contains(errs, "\nhint: ") {
			t.Errorf("%s: %d %q", args, code, errs)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a damaged export was kept")
	}
	if code, text, _ := holdfast(t, "audit", "export", "--socket", socket); code != exitIntegrity || text != "" {
		t.Errorf("export wrote %d bytes of a damaged trail", len(text))
	}
}

func TestAuditExport(t *testing.T) {
	trail := sampleTrail(20)
	socket := serveTrail(t, trail, asWritten)
	var want bytes.Buffer
	if err := trail.Export(&want, 5); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := holdfast(t, "audit", "export", "--from", "5", "--socket", socket); code != 0 || out != want.String() || errs != "" {
		t.Errorf("%d %q\n%s", code, errs, out)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "trail.ndjson")
	for range 2 { // the second replaces the first
		code, out, errs := holdfast(t, "audit", "export", "--from", "5", "-o", file, "--socket", socket)
		if code != 0 || errs != "" || out != file+": 17 records\nhead 21 "+headHash(trail)+"\n" {
			t.Fatalf("%d %q %q", code, out, errs)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("file is %q, %v", got, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if code, _, errs := holdfast(t, "audit", "export", "-o", filepath.Join(dir, "none", "f"), "--socket", socket); code != exitFailed || !strings.Contains(errs, "hint: write elsewhere") {
		t.Errorf("no directory: %d %q", code, errs)
	}
}

// Covers S15: a file is verified without a daemon, and one changed byte is
// found and its record named.
func TestAuditVerifyFile(t *testing.T) {
	trail := sampleTrail(20)
	var b bytes.Buffer
	if err := trail.Export(&b, 0); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trail.ndjson")
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(b.Bytes())
	if code, out, errs := holdfast(t, "audit", "verify", file); code != 0 || !strings.HasPrefix(out, "whole: 21 records") || errs != "" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	bad := bytes.Clone(b.Bytes())
	bad[bytes.Index(bad, []byte(`"index":16`))+len(`"index":1`)]++
	write(bad)
	code, out, errs := holdfast(t, "audit", "verify", file)
	if code != exitIntegrity || out != "" || !strings.HasPrefix(errs, "holdfast: verify audit trail: audit record 7 (line 8): ") || strings.Count(errs, "\n") != 2 {
		t.Errorf("%d %q %q", code, out, errs)
	}
	code, out, _ = holdfast(t, "audit", "verify", "--json", file)
	var got auditSummary
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitIntegrity || got.Verdict != "broken" || got.Record != 7 || got.Line != 8 || got.Why == "" {
		t.Errorf("json: %d %v %s", code, err, out)
	}
	write(b.Bytes()[:b.Len()-200])
	if code, _, errs := holdfast(t, "audit", "verify", file); code != exitIntegrity || !strings.Contains(errs, "record 21") {
		t.Errorf("cut: %d %q", code, errs)
	}
	if code, _, errs := holdfast(t, "audit", "verify", file+"none"); code != exitUsage || !strings.Contains(errs, "hint: write one: holdfast audit export") {
		t.Errorf("no file: %d %q", code, errs)
	}
	if code, _, _ := holdfast(t, "audit", "verify", filepath.Dir(file)); code != exitFailed {
		t.Errorf("directory: %d", code)
	}
}

// A chain that somebody computed anew is whole; that it is not the cluster's
// shows only in a comparison.
func TestAuditVerifyLive(t *testing.T) {
	trail := sampleTrail(5)
	write := func(t *testing.T, trail *audit.Trail) string {
		t.Helper()
		var b bytes.Buffer
		if err := trail.Export(&b, 0); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "trail.ndjson")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	forged := audit.NewTrail(0)
	for _, e := range trail.Events(0, 0) {
		e.Actor = "nobody"
		forged.Append(e)
	}
	later := trail.Clone()
	later.Append(audit.Event{Kind: "fence"})
	gone := audit.NewTrail(1)
	for range 20 {
		gone.Append(audit.Event{Kind: "fence"})
	}
	for _, test := range []struct {
		name    string
		cluster *audit.Trail
		file    *audit.Trail
		code    int
		want    string
	}{
		{"the same", trail, trail, 0, "the cluster has the same record 6\n"},
		{"an older export", later, trail, 0, "the cluster has the same record 6\n"},
		{"forged", trail, forged, exitIntegrity, "record 6 has the hash"},
		{"forged, and the cluster has gone on", later, forged, exitIntegrity, "record 6 has the hash"},
		{"longer than the cluster's", trail, later, exitIntegrity, "its trail ends with record 6, that of the file with 7"},
		{"too old to compare", gone, trail, exitRefused, "it keeps nothing before record 19"},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := serveTrail(t, test.cluster, asWritten)
			code, out, errs := holdfast(t, "audit", "verify", "--live", write(t, test.file), "--socket", socket)
			if code != test.code || !strings.Contains(out+errs, test.want) {
				t.Errorf("%d %q %q, want %d %q", code, out, errs, test.code, test.want)
			}
		})
	}
	if code, _, errs := holdfast(t, "audit", "verify", "--live"); code != exitUsage || !strings.Contains(errs, "hint: holdfast audit verify FILE --live") {
		t.Errorf("no file: %d %q", code, errs)
	}
	if code, _, _ := holdfast(t, "audit", "verify", "--live", write(t, trail), "--socket", "/nonexistent/control.sock"); code != exitUnreachable {
		t.Errorf("no daemon: %d", code)
	}
}

func TestAuditUnreachable(t *testing.T) {
	for _, args := range []string{"list", "verify", "export"} {
		code, out, errs := holdfast(t, "audit", args, "--socket", filepath.Join(t.TempDir(), "none"))
		if code != exitUnreachable || out != "" || !strings.Contains(errs, "\nhint: is it running?") {
			t.Errorf("%s: %d %q %q", args, code, out, errs)
		}
	}
}
