package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcdCluster drives etcd by its own client. Clients share connections, as
// those of etcd's own benchmark do.
type etcdCluster struct {
	conns []*clientv3.Client
	next  atomic.Uint64
}

func openEtcdCluster(target string, conns int) (system, error) {
	e := &etcdCluster{}
	for range max(conns, 1) {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: strings.Split(target, ","), DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		})
		if err != nil {
			return nil, errors.Join(err, e.close())
		}
		e.conns = append(e.conns, c)
	}
	return e, nil
}

func (e *etcdCluster) conn() *clientv3.Client { return e.conns[e.next.Add(1)%uint64(len(e.conns))] }

func (e *etcdCluster) put(ctx context.Context, key string, value []byte) error {
	_, err := e.conn().Put(ctx, key, string(value))
	return err
}

func (e *etcdCluster) putAll(ctx context.Context, keys []string, value []byte) error {
	ops := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		ops[i] = clientv3.OpPut(k, string(value))
	}
	_, err := e.conn().Txn(ctx).Then(ops...).Commit()
	return err
}

func (e *etcdCluster) close() error {
	var all error
	for _, c := range e.conns {
		all = errors.Join(all, c.Close())
	}
	return all
}

// leaderResult is the endpoint of the member that leads.
type leaderResult struct {
	Endpoint string `json:"endpoint"`
}

// etcdLeader waits until all members of a cluster name the same leader.
func etcdLeader(endpoints []string, limit time.Duration) (leaderResult, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return leaderResult{}, err
	}
	defer c.Close()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		r, err := askLeader(c, endpoints)
		if err == nil || time.Now().After(deadline) {
			return r, err
		}
	}
}

func askLeader(c *clientv3.Client, endpoints []string) (leaderResult, error) {
	var r leaderResult
	var leader uint64
	for i, e := range endpoints {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		st, err := c.Status(ctx, e)
		cancel()
		switch {
		case err != nil:
			return r, err
		case st.Leader == 0 || i > 0 && st.Leader != leader:
			return r, errors.New("members do not agree on a leader")
		case st.Header.MemberId == st.Leader:
			r.Endpoint = e
		}
		leader = st.Leader
	}
	if r.Endpoint == "" {
		return r, errors.New("the leader is none of the members")
	}
	return r, nil
}
