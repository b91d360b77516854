package page

import (
	"os"
	"path/filepath"
	"testing"
)

// What people wrote stays, whatever a program writes between.
func TestPutReplacesItsPartAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	check := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Fatalf("page is %q, %v; want %q", got, err, want)
		}
	}
	put := func(part, text string) {
		t.Helper()
		if err := Put(file, part, text); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "one")
	check("<!-- begin a -->\none\n<!-- end a -->\n")
	if err := os.WriteFile(file, []byte("# Title\n\n<!-- begin a -->\none\n<!-- end a -->\n\nprose\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	put("b", "two\n")
	put("a", "three\n\n")
	check("# Title\n\n<!-- begin a -->\nthree\n<!-- end a -->\n\nprose\n\n<!-- begin b -->\ntwo\n<!-- end b -->\n")
}

func TestPutRefusesWhatItCannotTellApart(t *testing.T) {
	for _, c := range []struct{ old, text string }{
		{"<!-- begin a -->\n", "x"},
		{"<!-- begin a -->\n<!-- end a -->\n<!-- begin a -->\n<!-- end a -->\n", "x"},
		{"", "<!-- begin b -->\n"},
	} {
		if got, err := replace(c.old, "a", c.text); err == nil {
			t.Errorf("%q with %q becomes %q", c.old, c.text, got)
		}
	}
	if err := Put(t.TempDir(), "a", "x"); err == nil {
		t.Error("a directory was written")
	}
}
