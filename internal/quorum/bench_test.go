package quorum

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/storage"
)

// bare is a driver whose log costs nothing.
type bare struct {
	d   *Driver
	st  *storage.State
	mem *memDisk
	ids map[uint64]*bare
	id  uint64
	// inbox holds what the others have sent.
	inbox   []Message
	from    []uint64
	applied int
}

func bareCluster(b testing.TB) (leader *bare, all []*bare) {
	first := storage.FirstConfig{Cluster: "bench", Profile: storage.Profile{Beat: testBeat, Promise: testP, Epsilon: testBeat}}
	for i, name := range []string{"gw1", "gw2", "w1"} {
		role := storage.Gateway
		if i == 2 {
			role = storage.Witness
		}
		first.Members = append(first.Members, testMember(name, uint64(i+1), role, int32(10-i)))
	}
	ids := map[uint64]*bare{}
	for _, m := range first.Members {
		n := &bare{id: m.RaftID, ids: ids, mem: newMemDisk(first.Snapshot()), st: storage.NewState(first)}
		var err error
		n.d, err = New(1e9, Config{
			ID: m.RaftID, Incarnation: 1, Log: n.mem, Members: first.Members,
			Beat: testBeat, Promise: testP, Lease: testL,
			OnLead: func(int64) [][]byte { return nil }, Random: func(int64) int64 { return 0 },
		})
		if err != nil {
			b.Fatal(err)
		}
		ids[m.RaftID] = n
		all = append(all, n)
	}
	for now := int64(1e9); ; now += int64(testBeat) {
		for _, n := range all {
			n.turn(b, now)
		}
		if all[0].d.Leads() && all[0].d.tail.handed > 1 {
			return all[0], all
		}
	}
}

func (n *bare) turn(b testing.TB, now int64) {
	inbox, from := n.inbox, n.from
	n.inbox, n.from = nil, nil
	for i, m := range inbox {
		if err := n.d.Step(now, from[i], 1, m.Data); err != nil {
			b.Fatal(err)
		}
	}
	for {
		select {
		case c := <-n.d.Durable():
			if err := n.d.Persisted(now, c); err != nil {
				b.Fatal(err)
			}
			continue
		default:
		}
		break
	}
	n.d.Tick(now)
	out, err := n.d.Process(now)
	if err != nil {
		b.Fatal(err)
	}
	n.applied += len(out.Committed)
	for _, m := range out.Messages {
		to := n.ids[m.To]
		to.inbox, to.from = append(to.inbox, m), append(to.from, n.id)
	}
	// Keep the memory of the log out of the measurement.
	if n.mem.last()-n.mem.base > 20000 {
		n.mem.compact(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(n.d.tail.handed), Term: new(n.d.tail.handedTerm), ConfState: n.mem.snap.GetMetadata().GetConfState(),
		}}, 1000)
	}
}

// The whole way of an entry of 300 bytes through three drivers, on one core:
// proposal, two followers, commit. each is how many are proposed in a turn.
func BenchmarkEntries(b *testing.B) {
	data, err := storage.Command{Op: storage.Expire{Clock: 1}}.Encode()
	if err != nil {
		b.Fatal(err)
	}
	data = append(data, make([]byte, 300-len(data))...)
	for _, each := range []int{1, 16, 256} {
		for _, at := range []string{"at once", "one by one"} {
			b.Run(fmt.Sprintf("%d %s", each, at), func(b *testing.B) {
				leader, all := bareCluster(b)
				now := leader.d.turn
				batch := make([][]byte, each)
				for i := range batch {
					batch[i] = data
				}
				b.ReportAllocs()
				b.ResetTimer()
				for done := 0; done < b.N; done += each {
					now += 50_000
					for _, n := range all {
						n.d.el.stalled(now) // nobody beats here
					}
					if at == "at once" {
						err = leader.d.Propose(now, batch...)
					} else {
						for _, data := range batch {
							err = leader.d.Propose(now, data)
						}
					}
					if err != nil {
						b.Fatal(err)
					}
					for _, n := range all {
						n.turn(b, now)
					}
				}
				b.ReportMetric(float64(leader.applied)/b.Elapsed().Seconds(), "entries/s")
			})
		}
	}
}
