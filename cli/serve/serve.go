// Package serve is the command "fairlead serve": it runs the broker. Begin with
// [Command].
package serve

import (
	"context"
	"fmt"
	"os"
	"strings"

	"fairlead/cli"
	"fairlead/config"
	"fairlead/node"
)

// Command is "fairlead serve".
var Command = &cli.Command{
	Name: "serve", Group: "Broker", Summary: "run the broker",
	About: `Settings come from a YAML file (--config), from FAIRLEAD_* variables and from
flags; a later one wins. Without --listen, the broker listens on mqtts://:8883 and
wss://:8084/mqtt with a certificate of its own CA, and without TLS on
mqtt://127.0.0.1:1883 and ws://127.0.0.1:8083/mqtt for this machine.

Devices connect with the certificate or password that "fairlead device add" gives
them, people and programs as users (fairlead user add). Nobody is anonymous, unless
--open lets everybody in.

It runs until it is interrupted: clients are told then (0x8B to MQTT 5 clients).
A second interrupt ends it at once. Exit code: 0 after a clean shutdown, 1 if it
could not start, 2 if a setting is wrong.`,
	Examples: []cli.Example{
		{What: "with TLS, for devices and users that have been added", Line: "fairlead serve"},
		{What: "for clients on this machine, which may do everything", Line: "fairlead serve --open"},
		{What: "on other ports", Line: "fairlead serve --open --listen mqtt://127.0.0.1:2883 --listen ws://127.0.0.1:2884/mqtt"},
		{What: "with a configuration file and one other setting", Line: "fairlead serve --config fairlead.yaml --set limits.queue_messages=500000"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	file     string
	open     bool
	listen   []string
	settings []config.Setting
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	f.String(&c.file, "config", "FILE", "read settings from this YAML file")
	f.Func("data", "DIR", "directory for what must survive a restart; default ./fairlead-data", c.setting("--data", "data"))
	f.Func("durability", "WHEN", "acknowledge when a message is on disk: fsync (default); or weaker: os, memory", c.setting("--durability", "durability"))
	f.Strings(&c.listen, "listen", "URL", "listen here instead of the default places: mqtt, mqtts, ws, wss or unix; may be repeated")
	f.Bool(&c.open, "open", "let anonymous clients do everything; refused on addresses that are not loopback")
	f.Func("log-level", "LEVEL", "debug, info (default), warn or error", c.setting("--log-level", "log.level"))
	f.Func("log-format", "FORMAT", "text (default) or json", c.setting("--log-format", "log.format"))
	f.Func("set", "KEY=VALUE", "any setting of the configuration file; may be repeated", c.set)
	return f
}

// setting returns the function of a flag that is a short name for a setting.
func (c *command) setting(flag, key string) func(string) error {
	return func(value string) error {
		c.settings = append(c.settings, config.Setting{Flag: flag, Key: key, Value: value})
		return nil
	}
}

func (c *command) set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q: expected KEY=VALUE", s)
	}
	return c.setting("--set "+key, key)(value)
}

func (c *command) run(ctx context.Context, env *cli.Env, _ []string) error {
	if c.open {
		c.settings = append(c.settings, config.Setting{Flag: "--open", Key: "open", Value: "true"})
	}
	if len(c.listen) > 0 {
		c.settings = append(c.settings, config.Setting{Flag: "--listen", Key: "listeners", Value: strings.Join(c.listen, ",")})
	}
	if c.file == "" {
		c.file = env.Getenv("FAIRLEAD_CONFIG")
	}
	conf, err := config.Load(config.LoadOptions{File: c.file, Env: env.Environ(), Flags: c.settings})
	if err != nil {
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	}
	log, err := conf.Log.Logger(os.Stderr)
	if err != nil {
		return err
	}
	return node.Run(ctx, node.Node{Config: conf, Logger: log, Version: cli.Version()})
}
