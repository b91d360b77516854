package main

import (
	"context"

	"github.com/holdfast-ha/holdfast/client"
)

// bucket is one that every cluster has.
const bucket = "sessions"

// holdfastCluster drives Holdfast by its own client over a control socket.
type holdfastCluster struct{ client *client.Client }

func openHoldfastCluster(target string, _ int) (system, error) {
	return &holdfastCluster{client.New(target)}, nil
}

func (h *holdfastCluster) put(ctx context.Context, key string, value []byte) error {
	_, err := h.client.Put(ctx, bucket, key, value)
	return err
}

func (h *holdfastCluster) putAll(ctx context.Context, keys []string, value []byte) error {
	var t client.Txn
	for _, k := range keys {
		t.Then = append(t.Then, client.PutOp(bucket, k, value))
	}
	_, err := h.client.Txn(ctx, t)
	return err
}

func (h *holdfastCluster) close() error {
	h.client.Close()
	return nil
}
