// Package store is the command "fairlead store": it looks after the data directory
// of a broker that is not running. Begin with [Command].
package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"fairlead/cli"
	"fairlead/store/pebble"
)

// Command is "fairlead store".
var Command = &cli.Command{
	Name: "store", Group: "Broker", Summary: "check or repair the data of a broker that is stopped",
	About: "A broker that finds its journal damaged does not start. check says what is lost,\nrepair makes it start without that.",
	Examples: []cli.Example{
		{What: "is everything readable?", Line: "fairlead store check --data /var/lib/fairlead"},
		{What: "go on without what is not", Line: "fairlead store repair --data /var/lib/fairlead"},
	},
	Commands: []*cli.Command{
		{
			Name: "check", Summary: "read everything and say what can't be read",
			About: `Reads each record of the journal and each value of the key-value store, compares
checksums, and reads what they hold. Nothing is changed, but for what every start
does: a record at the very end that a crash tore, which was never acknowledged, is
cut off. If the journal is damaged, nothing at all is changed, and what the values
hold can be read only after a repair.

Exit code: 0 all is well, 1 damaged or not readable, 2 wrong command line.`,
			Examples: []cli.Example{
				{What: "the default directory", Line: "fairlead store check"},
				{What: "another one, as JSON", Line: "fairlead store check --data /var/lib/fairlead --json"},
			},
			New: func() (*cli.Flags, cli.Run) { c := &command{}; return c.flags(), c.check },
		},
		{
			Name: "repair", Summary: "let a broker start on a damaged journal",
			About: `Says what is lost and asks before it does anything. Then it keeps all that stands
before the damage; what is damaged, and what stands behind it, is moved aside and
never deleted. What was acknowledged in the records that are lost is gone, unless
the latest checkpoint has it.

A damaged key-value store can't be repaired: restore a backup.

Exit code: 0 the journal can be read, 1 it could not be repaired, or the answer was
no, 2 wrong command line.`,
			Examples: []cli.Example{
				{What: "look, and decide", Line: "fairlead store repair --data /var/lib/fairlead"},
				{What: "without being asked", Line: "fairlead store repair --data /var/lib/fairlead --yes"},
			},
			New: func() (*cli.Flags, cli.Run) {
				c := &command{}
				f := c.flags()
				f.Bool(&c.yes, "yes", "do not ask; needed where there is no terminal")
				return f, c.repair
			},
		},
	},
}

// command is the flags' values.
type command struct {
	data   cli.Data
	asJSON bool
	yes    bool
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	c.data.Flags(f)
	f.Bool(&c.asJSON, "json", "as a JSON object")
	return f
}

func (c *command) check(ctx context.Context, env *cli.Env, _ []string) error {
	dir, err := c.data.Dir(env)
	if err != nil {
		return err
	}
	r, err := survey(ctx, env, dir)
	if err != nil {
		return err
	}
	if r.sound() {
		meter := cli.NewMeter(env)
		r.Contents, err = readContents(ctx, dir, meter)
		meter.Clear()
		if ctx.Err() != nil {
			return cli.TimedOut(ctx)
		}
		if err != nil {
			return fmt.Errorf("read what %s holds: %w", dir, err)
		}
	}
	if err := c.say(env, r); err != nil {
		return err
	}
	if !r.sound() {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return nil
}

// survey lets the engine check the directory. Damage stands in the report.
func survey(ctx context.Context, env *cli.Env, dir string) (*report, error) {
	meter := cli.NewMeter(env)
	defer meter.Clear()
	r, err := pebble.Check(ctx, dir, pebble.Options{}, progress(meter))
	if ctx.Err() != nil {
		return nil, cli.TimedOut(ctx)
	}
	if err != nil && r.Damage == nil && r.KVErr == nil {
		return nil, err
	}
	return newReport(dir, r), nil
}

func progress(meter *cli.Meter) pebble.Progress {
	return func(done, total int64) {
		meter.Show(func() string { return fmt.Sprintf("journal %3d %% of %s", done*100/max(1, total), cli.Size(total)) })
	}
}

func (c *command) repair(ctx context.Context, env *cli.Env, _ []string) error {
	dir, err := c.data.Dir(env)
	if err != nil {
		return err
	}
	before, err := survey(ctx, env, dir)
	if err != nil {
		return err
	}
	switch {
	case before.KVError != "":
		return errors.Join(c.say(env, before), errors.New("the key-value store can't be repaired: restore a backup into another directory"))
	case before.Damage == nil:
		return c.say(env, before)
	}
	if !c.yes {
		if err := c.ask(env, before); err != nil {
			return err
		}
	}
	meter := cli.NewMeter(env)
	after, err := pebble.Repair(ctx, dir, pebble.Options{}, time.Now(), progress(meter))
	meter.Clear()
	if err != nil {
		return err
	}
	r := newReport(dir, after)
	r.Repaired = true
	if r.Damage == nil {
		r.Damage = before.Damage
	}
	return c.say(env, r)
}

// ask says what is lost and waits for a yes.
func (c *command) ask(env *cli.Env, r *report) error {
	in, ok := env.Stdin.(*os.File)
	if c.asJSON || !ok || !cli.Terminal(in) || !cli.Terminal(env.Stderr) {
		return cli.Usagef("repair gives up what can't be read: look at \"fairlead store check\" first, then say --yes")
	}
	if err := r.print(env.Stderr); err != nil {
		return err
	}
	fmt.Fprint(env.Stderr, "Go on without these records? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

func (c *command) say(env *cli.Env, r *report) error {
	if c.asJSON {
		return json.NewEncoder(env.Stdout).Encode(r)
	}
	return r.print(env.Stdout)
}
