package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/holdfast-ha/holdfast/internal/transport"
)

type keygenCmd struct {
	Out string `short:"o" name:"out" placeholder:"FILE" default:"${key}" predictor:"file" help:"File to write, mode 0600; never overwritten (default: ${key})."`
}

func (c *keygenCmd) Run(a *app) error {
	public, err := transport.GenerateKey(c.Out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &commandError{code: exitFailed, err: err, hint: "mkdir -p " + filepath.Dir(c.Out)}
	case errors.Is(err, fs.ErrPermission):
		return &commandError{code: exitFailed, err: err, hint: "run it with sudo, or write elsewhere: -o FILE"}
	case err != nil:
		return err
	}
	text := transport.EncodePublicKey(public)
	return a.show(map[string]string{"file": c.Out, "public_key": text}, "%s\n", text)
}
