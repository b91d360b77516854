package scenario_test

import (
	"os"
	"testing"

	"github.com/holdfast-ha/holdfast/test/scenario"
)

// Covers C5, S6: every row of the table of times on one cluster, one after the
// other: never two owners, and the address is served again. How fast is the
// benchmark's business; here the bounds only tell seconds from milliseconds.
func TestEveryScenario(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test makes network namespaces and must run as root")
		}
		t.Skip("this test makes network namespaces and needs root")
	}
	env, ready, err := scenario.Start(t.Context(), scenario.Options{Profile: "default", LogLevel: "debug"})
	if err != nil {
		t.Fatal(err)
	}
	env.Cluster.Lab().Attach(t)
	t.Logf("ready after %v", ready)
	for _, s := range scenario.All() {
		ok := t.Run(s.ID, func(t *testing.T) {
			r, err := s.Run(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %v", s.Title, r.Report)
			if r.Doubles != 0 {
				t.Errorf("two owners %d times, for up to %v: %+v", r.Doubles, r.LongestDouble, r.Report.Doubles)
			}
			if r.Gap > s.Wide {
				t.Errorf("gap %v, at most %v on a shared machine", r.Gap, s.Wide)
			}
		})
		if !ok {
			break // the cluster may not be whole
		}
	}
}

func TestTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenario.All() {
		if s.ID == "" || s.Title == "" || s.Row == "" || s.Wide == 0 || seen[s.ID] {
			t.Errorf("scenario %+v is not complete, or there twice", s)
		}
		seen[s.ID] = true
		if s.ID != "address" && (s.Goals.Of("default") == 0 || s.Goals.Of("fast") == 0) {
			t.Errorf("%s has no goals", s.ID)
		}
		if s.Goals.Of("wan") != 0 {
			t.Errorf("%s has a goal in a profile that the table does not know", s.ID)
		}
	}
}
