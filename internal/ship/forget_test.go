package ship

import "testing"

// A snapshot that was published and not used is sent again when it is offered
// again.
func TestForgottenFileIsTakenAgain(t *testing.T) {
	o := Offer{Cluster: [16]byte{1}, Term: 3, File: File{Index: 9}, Size: 5}
	r := NewReceiver(o.Cluster, 1)
	r.done, r.doneTerm = o.File, o.Term
	if acts := r.Offer(0, 7, 8, o); len(acts) != 1 || acts[0].Kind != Send {
		t.Fatalf("a finished file is asked for: %+v", acts)
	}
	r.Forget()
	if acts := r.Offer(0, 7, 8, o); len(acts) != 1 || acts[0].Kind != Open {
		t.Fatalf("a forgotten file is not taken: %+v", acts)
	}
}
