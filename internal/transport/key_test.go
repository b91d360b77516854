package transport

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	pub, err := GenerateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	key, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !pub.Equal(key.Public()) {
		t.Error("loaded key has another public key")
	}
	text := EncodePublicKey(pub)
	back, err := ParsePublicKey(text)
	if err != nil || !back.Equal(pub) {
		t.Errorf("ParsePublicKey(%q) = %x, %v", text, back, err)
	}
}

func TestGenerateKeyNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := GenerateKey(path)
	var kf *KeyFileError
	if !errors.Is(err, ErrKeyExists) || !errors.As(err, &kf) || kf.Hint == "" {
		t.Fatalf("got %v", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "precious" {
		t.Errorf("file now holds %q", raw)
	}
}

func TestLoadKeyRefusals(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.key")
	if _, err := GenerateKey(good); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		raw  []byte
		mode os.FileMode
		hint string
	}{
		"group may read":  {raw, 0o640, "chmod 600"},
		"others may read": {raw, 0o604, "chmod 600"},
		"group may write": {raw, 0o620, "chmod 600"},
		"empty":           {nil, 0o600, "keygen"},
		"no PEM":          {[]byte("hello"), 0o600, "keygen"},
		"cut":             {raw[:len(raw)/2], 0o600, "keygen"},
		"huge":            {make([]byte, maxKeyFileSize+1), 0o600, "keygen"},
		"public key":      {[]byte(strings.ReplaceAll(string(raw), "PRIVATE", "PUBLIC")), 0o600, "keygen"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := os.WriteFile(path, c.raw, c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil { // past the umask
				t.Fatal(err)
			}
			_, err := LoadKey(path)
			var kf *KeyFileError
			if !errors.As(err, &kf) || !strings.Contains(kf.Hint, c.hint) {
				t.Errorf("got %v", err)
			}
		})
	}
	var kf *KeyFileError
	if _, err := LoadKey(filepath.Join(dir, "absent")); !errors.As(err, &kf) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := LoadKey(dir); !errors.As(err, &kf) {
		t.Errorf("directory: %v", err)
	}
}

func TestParsePublicKeyRefusals(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "short": "AAAA", "not base64": strings.Repeat("?", 44),
		"all zero": EncodePublicKey(make([]byte, 32)), "long": EncodePublicKey(make([]byte, 33)),
		"trailing line": EncodePublicKey(make([]byte, 32)) + "\n",
	} {
		if _, err := ParsePublicKey(text); err == nil {
			t.Errorf("%s: took %q", name, text)
		}
	}
}

// The list of small-order points is right when each of them can be shown to
// accept a signature made without any key.
func TestSmallOrderPointsAcceptForgeries(t *testing.T) {
	for _, text := range smallOrderPoints {
		pub, err := hex.DecodeString(text)
		if err != nil || !smallOrder(pub) {
			t.Fatalf("%s: %v", text, err)
		}
		forged := false
		for i := 0; i < 200 && !forged; i++ {
			for _, r := range smallOrderPoints {
				sig, _ := hex.DecodeString(r + strings.Repeat("00", 32))
				forged = forged || ed25519.Verify(pub, fmt.Appendf(nil, "message %d", i), sig)
			}
		}
		if !forged {
			t.Errorf("%s: no forgery found, is it a small-order point?", text)
		}
	}
}
