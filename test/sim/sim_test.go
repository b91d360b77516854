package sim

import "testing"

func TestSmoke(t *testing.T) {
	for seed := range uint64(3) {
		r, err := Run(Options{Seed: seed + 1, Log: func(s string) { t.Log(s) }})
		if err != nil {
			t.Fatal(err)
		}
		r.Trace = nil
		t.Logf("%+v", r)
		if r.Failure != nil {
			t.Fatal(r.Failure)
		}
	}
}
