package lab

import "os"

// NeedRoot skips a test that makes network namespaces unless it runs as root.
// Where CI is "true", a skip would hide that nothing was tested: it fails.
func NeedRoot(t interface {
	Helper()
	Fatal(...any)
	Skip(...any)
}) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test makes network namespaces and must run as root")
	}
	t.Skip("this test makes network namespaces and needs root")
}
