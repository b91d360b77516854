package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
)

type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Validate a file; print the derived timing and its safety margin."`
}

type configCheckCmd struct {
	File string `arg:"" optional:"" predictor:"file" help:"File to check (default: that of --config)."`
}

// checked is the result as JSON.
type checked struct {
	Valid    bool             `json:"valid"`
	File     string           `json:"file"`
	Problems []checkedProblem `json:"problems"`
	Warnings []string         `json:"warnings"`
	Timing   *checkedTiming   `json:"timing,omitempty"`
}

type checkedProblem struct {
	Line int    `json:"line"`
	Key  string `json:"key"`
	What string `json:"what"`
	Fix  string `json:"fix"`
}

type checkedTiming struct {
	Profile   string  `json:"profile"`
	BeatMs    float64 `json:"beat_ms"`
	PromiseMs float64 `json:"promise_ms"`
	EpsilonMs float64 `json:"epsilon_ms"`
	LeaseMs   float64 `json:"lease_ms"`
	MarginMs  float64 `json:"margin_ms"`
}

func (c *configCheckCmd) Run(a *app) error {
	if c.File == "" {
		c.File = a.cli.ConfigFile
	}
	result := checked{File: c.File, Problems: []checkedProblem{}, Warnings: []string{}}
	parsed, err := loadConfig(c.File)
	if err != nil {
		var problems config.Problems
		if errors.As(err, &problems) && a.cli.JSON {
			for _, p := range problems {
				result.Problems = append(result.Problems, checkedProblem{p.Line, p.Key, p.What, p.Fix})
			}
			err = errors.Join(err, a.show(result, ""))
		}
		return err
	}
	t := parsed.Timing
	result.Valid = true
	result.Warnings = append(result.Warnings, parsed.Warnings()...)
	result.Timing = &checkedTiming{
		Profile: t.Profile, BeatMs: ms(t.Beat), PromiseMs: ms(t.Promise), EpsilonMs: ms(t.Epsilon),
		LeaseMs: ms(t.Lease), MarginMs: ms(t.Margin()),
	}
	return a.show(result, "%s", checkText(parsed))
}

func checkText(c *config.Config) string {
	var out strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&out, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	gateways := 0
	for _, m := range c.Members {
		if m.Role == config.Gateway {
			gateways++
		}
	}
	t := c.Timing
	profile := t.Profile
	if profile == "" {
		profile = "by hand"
	}
	fmt.Fprintf(&out, "%s is valid\n", c.File)
	line("cluster", "%s, this node is %s (%s)", c.Cluster, c.Node.Name, c.Self().Role)
	line("members", "%d voters: %s, %s", len(c.Members),
		count(gateways, "gateway", "gateways"), count(len(c.Members)-gateways, "witness", "witnesses"))
	line("vips", "%d in groups %s", len(c.VIPs), strings.Join(c.Groups(), ", "))
	line("timing", "%s: beat %v, promise %v, epsilon %v", profile, t.Beat, t.Promise, t.Epsilon)
	line("lease", "%v, derived; L/(1-rho) + epsilon <= P/(1+rho) holds with a margin of %v", t.Lease, t.Margin())
	for _, w := range c.Warnings() {
		line("warning", "%s", w)
	}
	return out.String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
