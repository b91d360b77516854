package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-ha/holdfast/client"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/control/controltest"
)

// demo runs f against a socket of its own.
func demo(f func(ctx context.Context, socket string) error) {
	dir, err := os.MkdirTemp("", "holdfast-example-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // a directory for the moment
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	socket := filepath.Join(dir, "control.sock")
	server, err := control.Listen(control.Options{Path: socket, Backend: controltest.New(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	if err := f(ctx, socket); err != nil {
		fmt.Println(err)
	}
	cancel()
	if err := <-done; err != nil {
		fmt.Println(err)
	}
}

// A counter that several programs share: read, compute, write if nobody was
// faster.
func Example() {
	demo(func(ctx context.Context, socket string) error {
		c := client.New(socket)
		defer c.Close()
		for range 3 {
			for {
				var n int
				condition := client.IfAbsent()
				item, err := c.Get(ctx, "tasks", "counter")
				switch {
				case err == nil:
					if _, err := fmt.Sscan(string(item.Value), &n); err != nil {
						return err
					}
					condition = client.IfRev(item.Rev)
				case client.CodeOf(err) != client.NotFound:
					return err
				}
				_, err = c.Put(ctx, "tasks", "counter", fmt.Append(nil, n+1), condition)
				if client.CodeOf(err) == client.PreconditionFailed {
					continue
				}
				if err != nil {
					return err
				}
				break
			}
		}
		item, err := c.Get(ctx, "tasks", "counter")
		fmt.Printf("%s at revision %d\n", item.Value, item.Rev)
		return err
	})
	// Output: 3 at revision 3
}

// To see all keys and every change after that, list first and watch from
// there.
func ExampleClient_Watch() {
	demo(func(ctx context.Context, socket string) error {
		c := client.New(socket)
		defer c.Close()
		if _, err := c.Put(ctx, "sessions", "alice", []byte("here")); err != nil {
			return err
		}
		page, err := c.List(ctx, "sessions", client.ListOptions{})
		if err != nil {
			return err
		}
		for _, k := range page.Keys {
			fmt.Println("has", k.Key)
		}
		w, err := c.Watch(ctx, "sessions", client.WatchOptions{From: page.Rev + 1})
		if err != nil {
			return err
		}
		defer w.Close()
		if _, err := c.Delete(ctx, "sessions", "alice"); err != nil {
			return err
		}
		e, err := w.Next()
		fmt.Println(e.Type, e.Key, e.Rev)
		return err
	})
	// Output:
	// has alice
	// delete alice 2
}
