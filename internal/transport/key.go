package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	pemType        = "PRIVATE KEY"
	maxKeyFileSize = 16 << 10
)

// KeyFileError tells what is wrong with a key file and what to do about it.
type KeyFileError struct {
	Path string
	Err  error
	Hint string // command or action for the operator
}

func (e *KeyFileError) Error() string { return fmt.Sprintf("key file %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *KeyFileError) Unwrap() error { return e.Err }

// ErrKeyMode means that others than the owner may read or write a key file.
var ErrKeyMode = errors.New("readable or writable by others than its owner")

// ErrKeyExists means that GenerateKey found a file already there.
var ErrKeyExists = errors.New("file exists, a key is never overwritten")

// GenerateKey draws a node key and writes it to path as PEM PKCS#8 with mode
// 0600, durable when it returns. An existing file is never touched
// (ErrKeyExists).
func GenerateKey(path string) (ed25519.PublicKey, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate node key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("encode node key: %w", err)
	}
	if err := writeKeyFile(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})); err != nil {
		return nil, err
	}
	return pub, nil
}

func writeKeyFile(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &KeyFileError{Path: path, Err: ErrKeyExists, Hint: "choose another path, or move " + path + " away first"}
	}
	if err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		// Half a key would block the next attempt; the file is ours by O_EXCL.
		return errors.Join(fmt.Errorf("write key file: %w", err), os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory of key file: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory of key file: %w", err)
	}
	return nil
}

// LoadKey reads a node key. A file that group or others may access in any way
// is refused (ErrKeyMode): it has to be taken for known to them.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &KeyFileError{Path: path, Err: err, Hint: "holdfast keygen -o " + path}
	}
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer func() { _ = f.Close() }() // read only, nothing to lose
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &KeyFileError{Path: path, Err: errors.New("not a regular file"), Hint: "set key_file to a file made by holdfast keygen"}
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, &KeyFileError{Path: path, Err: fmt.Errorf("mode %#o: %w", mode, ErrKeyMode), Hint: "chmod 600 " + path}
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	key, err := parsePrivateKey(raw)
	if err != nil {
		return nil, &KeyFileError{Path: path, Err: err, Hint: "restore it from a backup, or make a new one with holdfast keygen and change public_key on every member"}
	}
	return key, nil
}

func parsePrivateKey(raw []byte) (ed25519.PrivateKey, error) {
	if len(raw) > maxKeyFileSize {
		return nil, fmt.Errorf("larger than %d bytes", maxKeyFileSize)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != pemType {
		return nil, errors.New("holds no PEM block of type " + pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse PKCS#8: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("holds a %T, not an Ed25519 key", parsed)
	}
	return key, nil
}

// EncodePublicKey returns the form that configurations hold: standard base64
// of the 32 bytes.
func EncodePublicKey(pub ed25519.PublicKey) string {
	return base64.StdEncoding.EncodeToString(pub)
}

// ParsePublicKey reads what EncodePublicKey wrote. It refuses points of small
// order, for which anybody can make signatures: an all-zero placeholder in a
// configuration is one.
func ParsePublicKey(s string) (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	if len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("public key has %d bytes instead of %d", len(raw), ed25519.PublicKeySize)
	}
	if smallOrder(raw) {
		return nil, errors.New("public key is a point of small order, which no key generator makes")
	}
	return raw, nil
}

// smallOrderPoints are the encodings of points of order 1, 2, 4 and 8 with the
// sign bit cleared, canonical and not (libsodium's ge25519_has_small_order).
var smallOrderPoints = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func smallOrder(pub []byte) bool {
	clean := append([]byte(nil), pub...)
	clean[len(clean)-1] &= 0x7f
	text := hex.EncodeToString(clean)
	for _, p := range smallOrderPoints {
		if text == p {
			return true
		}
	}
	return false
}
