package guard

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// What a worker may have put on an interface is written down before it is
// acknowledged, so that the next guard finds it although the configuration has
// changed meanwhile: an address that nobody remembers would stay outside the
// gate. One line an address, appended in one write; the file lives in the
// runtime directory and, like the addresses, does not outlive the host.

const addressFile = "addresses"

// KnownAddresses are those that workers of this runtime directory may have
// set. A line that was cut short is left out: it was never acknowledged.
func KnownAddresses(dir string) ([]Address, error) {
	raw, err := os.ReadFile(filepath.Join(dir, addressFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known addresses: %w", err)
	}
	var out []Address
	for line := range bytes.Lines(raw) {
		prefix, iface, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if !ok || !bytes.HasSuffix(line, []byte("\n")) {
			continue
		}
		p, err := netip.ParsePrefix(string(prefix))
		if err != nil {
			continue // a line that was cut short, and the next one glued to it
		}
		out = append(out, Address{Prefix: p, Interface: string(iface)})
	}
	return out, nil
}

// ForgetAddresses is called when all of them are off the host and the gate is
// gone.
func ForgetAddresses(dir string) error {
	err := os.Remove(filepath.Join(dir, addressFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget addresses: %w", err)
	}
	return nil
}

// rememberAddresses adds what is not known yet.
func rememberAddresses(dir string, list []Address) error {
	known, err := KnownAddresses(dir)
	if err != nil {
		return err
	}
	var lines []byte
	for _, a := range list {
		if !slices.Contains(known, a) {
			lines = fmt.Appendf(lines, "%v %s\n", a.Prefix, a.Interface)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	// Ends a line that a full disk has cut short.
	lines = append([]byte("\n"), lines...)
	f, err := os.OpenFile(filepath.Join(dir, addressFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("remember addresses: %w", err)
	}
	_, err = f.Write(lines)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("remember addresses: %w", err)
	}
	return nil
}
