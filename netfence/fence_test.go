package netfence

import "testing"

func TestSmoke(t *testing.T) {
	for _, mode := range []string{ModeTCX, ModeClsact} {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs([]VIP{{mustAddr("10.0.0.1"), 3}}))
			check(t, f.AttachAll())
			check(t, f.Verify())
			g := openGate(t, f, 7)
			open(t, g, 3)
			v, err := g.Read(3)
			check(t, err)
			if !v.Open {
				t.Fatalf("%+v", v)
			}
			check(t, g.CloseGroup(3))
			t.Log(run(t, "tc", "filter", "show", "dev", "v0", "ingress"))
			check(t, f.CloseAll())
			check(t, f.Detach())
		})
	}
}
