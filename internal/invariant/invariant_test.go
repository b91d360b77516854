package invariant

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	Check(true, "never shown")
	defer func() {
		msg, _ := recover().(string)
		if !strings.Contains(msg, "deadline 5 before 7") {
			t.Fatalf("panic says %q, want its numbers", msg)
		}
	}()
	Check(false, "deadline %d before %d", 5, 7)
}
