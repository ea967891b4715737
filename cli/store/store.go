// Package store is the command "fairlead store": it looks after the data directory
// of a broker that is not running. Begin with [Command].
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"fairlead/cli"
	"fairlead/store/pebble"
)

// Command is "fairlead store".
var Command = &cli.Command{
	Name: "store", Group: "Broker", Summary: "check or repair the data of a broker that is stopped",
	About: `A broker that finds its journal damaged does not start. check says what is lost,
repair makes it start without that. Exit code: 0 done, 1 damaged or not possible,
2 wrong command line.`,
	Examples: []cli.Example{
		{What: "what is there, and can it be read?", Line: "fairlead store check --data /var/lib/fairlead"},
	},
	Commands: []*cli.Command{
		{
			Name: "check", Summary: "read everything and change nothing",
			About: `Reads the journal and the key-value store and says what can't be read.

Exit code: 0 all is well, 1 damaged or not readable, 2 wrong command line.`,
			Examples: []cli.Example{
				{What: "the default directory", Line: "fairlead store check"},
				{What: "another one, as JSON", Line: "fairlead store check --data /var/lib/fairlead --json"},
			},
			New: func() (*cli.Flags, cli.Run) { c := &command{}; return c.flags(), c.check },
		},
		{
			Name: "repair", Summary: "let a broker start on a damaged journal",
			About: `Keeps all that stands before the damage. What is damaged, and what stands behind
it, is moved aside and never deleted. Records that are lost are named: what was
acknowledged in them is gone.

Exit code: 0 the journal can be read, 1 it could not be repaired, 2 wrong command
line.`,
			Examples: []cli.Example{
				{What: "after \"fairlead store check\" has said what is lost", Line: "fairlead store repair --data /var/lib/fairlead --yes"},
			},
			New: func() (*cli.Flags, cli.Run) {
				c := &command{}
				f := c.flags()
				f.Bool(&c.yes, "yes", "do it; without it nothing is changed")
				return f, c.repair
			},
		},
	},
}

// command is the flags' values.
type command struct {
	dir    string
	asJSON bool
	yes    bool
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	f.String(&c.dir, "data", "DIR", "the broker's data directory; default ./fairlead-data")
	f.Bool(&c.asJSON, "json", "as a JSON object")
	return f
}

func (c *command) data() string {
	if c.dir == "" {
		return "./fairlead-data"
	}
	return c.dir
}

func (c *command) check(ctx context.Context, env *cli.Env, _ []string) error {
	r, err := pebble.Check(ctx, c.data(), pebble.Options{}, progress(env))
	if err != nil && r.Damage == nil && r.KVErr == nil {
		return fmt.Errorf("check %s: %w", c.data(), err)
	}
	if err := c.say(env, r); err != nil {
		return err
	}
	if r.Damage != nil || r.KVErr != nil {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return nil
}

func (c *command) repair(ctx context.Context, env *cli.Env, _ []string) error {
	if !c.yes {
		return cli.Usagef("repair gives up what can't be read: look at \"fairlead store check\" first, then say --yes")
	}
	r, err := pebble.Repair(ctx, c.data(), pebble.Options{}, time.Now(), progress(env))
	if err != nil {
		return fmt.Errorf("repair %s: %w", c.data(), err)
	}
	return c.say(env, r)
}

// progress draws on a terminal how much has been read.
func progress(env *cli.Env) pebble.Progress {
	if !cli.Terminal(env.Stderr) {
		return nil
	}
	return func(done, total int64) {
		if total > 0 {
			fmt.Fprintf(env.Stderr, "\r%3d %% of %d MiB", done*100/total, total>>20)
		}
		if done >= total {
			fmt.Fprintln(env.Stderr)
		}
	}
}

// report is a pebble.Report for scripts.
type report struct {
	First   uint64   `json:"first_record"`
	Next    uint64   `json:"next_record"`
	Bytes   int64    `json:"journal_bytes"`
	Torn    int64    `json:"torn_bytes"`
	Keys    uint64   `json:"keys"`
	Damage  string   `json:"damage,omitempty"`
	Cut     string   `json:"cut,omitempty"`
	KVError string   `json:"kv_error,omitempty"`
	Moved   []string `json:"moved,omitempty"`
	Aside   string   `json:"aside,omitempty"`
}

func (c *command) say(env *cli.Env, r pebble.Report) error {
	j := report{
		First: uint64(r.First), Next: uint64(r.Next), Bytes: r.Bytes, Torn: r.TornBytes, Keys: r.Keys,
		Damage: text(damage(r.Damage)), Cut: text(damage(r.Cut)), KVError: text(r.KVErr), Moved: r.Moved, Aside: r.Aside,
	}
	if c.asJSON {
		return json.NewEncoder(env.Stdout).Encode(j)
	}
	return j.print(env.Stdout)
}

// damage is d as an error that is nil if d is.
func damage(d *pebble.Damage) error {
	if d == nil {
		return nil
	}
	return d
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (j *report) print(w io.Writer) error {
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		errs = append(errs, err)
	}
	line("journal: %d records, %d bytes", j.Next-j.First, j.Bytes)
	if j.Torn > 0 {
		line("journal: %d bytes at the end were never acknowledged; the next start cuts them", j.Torn)
	}
	if j.Keys > 0 {
		line("key-value store: %d keys", j.Keys)
	}
	for what, s := range map[string]string{"damaged": j.Damage, "cut by a loss of power": j.Cut, "key-value store": j.KVError} {
		if s != "" {
			line("%s: %s", what, s)
		}
	}
	for _, name := range j.Moved {
		line("moved aside: %s, to %s", name, j.Aside)
	}
	if j.Damage == "" && j.KVError == "" {
		line("all that was read is well")
	}
	return errors.Join(errs...)
}
