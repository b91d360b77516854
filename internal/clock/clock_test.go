package clock

import (
	"errors"
	"testing"
	"time"
)

func TestBoottimeAdvances(t *testing.T) {
	a := Boottime()
	b := System{}.Boottime()
	if a <= 0 || b < a {
		t.Fatalf("boot clock went from %d to %d", a, b)
	}
}

func TestFakeNeverGoesBack(t *testing.T) {
	f := NewFake(5)
	f.Advance(3 * time.Nanosecond)
	if got := f.Boottime(); got != 8 {
		t.Fatalf("got %d, want 8", got)
	}
	defer func() {
		if recover() == nil {
			t.Fatal("a step back did not panic")
		}
	}()
	f.Advance(-1)
}

func TestTimeNamespaceOffsets(t *testing.T) {
	for _, tc := range []struct {
		name, raw string
		want      error
		bad       bool
	}{
		{name: "none", raw: "monotonic  0 0\nboottime   0 0\n"},
		{name: "monotonic only", raw: "monotonic  7 0\nboottime   0 0\n"},
		{name: "seconds", raw: "monotonic  0 0\nboottime   -3 0\n", want: ErrTimeNamespace},
		{name: "nanoseconds", raw: "boottime 0 1\n", want: ErrTimeNamespace},
		{name: "garbage", raw: "boottime x 1\n", bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := checkOffsets([]byte(tc.raw))
			if tc.bad {
				if err == nil {
					t.Fatal("garbage was accepted")
				}
				return
			}
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
	if err := CheckTimeNamespace(); err != nil {
		t.Fatalf("this process: %v", err)
	}
}
