package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Options of a cluster that scenarios run on.
type Options struct {
	Binary  string
	Profile string // default or fast
	// LogLevel of the members; "info" when empty.
	LogLevel string
}

// Start builds a lab with two gateways, a witness and a client and starts a
// cluster in it. ready is the time from the start of the processes until the
// cluster was whole. The caller closes the lab: env.Cluster.Lab().Close().
func Start(ctx context.Context, o Options) (env Env, ready time.Duration, err error) {
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	l, err := lab.New(lab.Options{Gateways: 2, Witnesses: 1, Clients: 1})
	if err != nil {
		return Env{}, 0, err
	}
	c, err := l.NewCluster(lab.ClusterOptions{
		Binary: o.Binary, Profile: o.Profile,
		Config: func(_ *lab.Node, cfg lab.Table) {
			cfg["log"] = lab.Table{"level": o.LogLevel, "format": "text"}
		},
	})
	if err != nil {
		return Env{}, 0, errors.Join(err, l.Close())
	}
	env = Env{Cluster: c}
	began := time.Now()
	err = c.Start()
	if err == nil {
		err = env.WaitWhole(ctx)
	}
	if err != nil {
		l.Keep()
		logs := l.Logs(30)
		return Env{}, 0, errors.Join(fmt.Errorf("start cluster (files kept in %s): %w\n%s", l.Dir, err, logs), l.Close())
	}
	return env, time.Since(began), nil
}
