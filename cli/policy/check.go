package policy

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"fairlead/admin"
	"fairlead/cli"
)

// actions are what can be asked about.
var actions = []string{"publish", "subscribe", "receive", "connect"}

var checkCommand = &cli.Command{
	Name: "check", Usage: "DEVICE publish|subscribe|receive|connect [TOPIC]", Summary: "say whether a device may do something, and by which rule",
	About: `Answers with the sentence that names the deciding rule, its file and line. TOPIC is a topic
filter with subscribe; with connect it is left out. receive asks about messages that
wait in a queue.

With --with FILE the answer is what it would be if FILE were applied. The file is checked
before anything is sent; "fairlead policy check --with FILE" alone does only that, and
needs no broker.

Exit code: 0 yes, 1 no, or it could not be found out, 2 wrong command line.`,
	Examples: []cli.Example{
		{What: "a message", Line: "fairlead policy check t1 publish plant/berlin/t1/temperature"},
		{What: "all the details", Line: "fairlead policy check t1 publish plant/berlin/t1/image --qos 1 --retain --bytes 200000"},
		{What: "a user", Line: "fairlead policy check --user anna subscribe 'home/#'"},
		{What: "a client id", Line: "fairlead policy check t1 connect --client t1:debug"},
		{What: "before it is applied", Line: "fairlead policy check t1 subscribe 'plant/#' --with sensors.yaml"},
		{What: "has this file errors?", Line: "fairlead policy check --with sensors.yaml"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &checking{}
		f := cli.NewFlags()
		f.Bool(&c.user, "user", "DEVICE is the name of a user")
		f.String(&c.ask.Client, "client", "ID", "its Client Identifier; default: its name")
		f.Int(&c.ask.QoS, "q,qos", "QOS", 0, 2, "of the message or subscription; default 0")
		f.Bool(&c.ask.Retain, "r,retain", "the message is to be retained")
		f.Int(&c.ask.Bytes, "bytes", "COUNT", 0, math.MaxInt32, "size of the payload; default 0")
		f.String(&c.with, "with", "FILE", "as if FILE were applied")
		f.String(&c.ask.TextFor, "name", "NAME", "under NAME; default: the file's")
		return c.finish(f), c.run
	},
}

type checking struct {
	command
	user bool
	with string
	ask  admin.Question
}

func (c *checking) run(ctx context.Context, env *cli.Env, args []string) error {
	if c.with == "" && c.ask.TextFor != "" {
		return cli.Usagef("--name is for --with FILE: expected both")
	}
	if len(args) > 0 || c.with == "" {
		if err := c.question(args); err != nil {
			return err
		}
	}
	if c.with != "" {
		f, err := readFile(env, c.with, c.ask.TextFor)
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return c.sound(env)
		}
		c.ask.Text, c.ask.TextFor = string(f.text), f.name
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	a, err := broker.CheckPolicy(ctx, c.ask)
	if err != nil {
		return err
	}
	if c.asJSON {
		err = cli.PrintJSON(env.Stdout, a)
	} else {
		_, err = fmt.Fprintf(env.Stdout, "%s: %s\n", cli.Printable(args[0]), a.Sentence)
	}
	if err == nil && !a.Allowed {
		return errNo
	}
	return err
}

// question takes over the arguments.
func (c *checking) question(args []string) error {
	if len(args) < 2 {
		return cli.Usagef("expected DEVICE, one of %s, and TOPIC", strings.Join(actions, ", "))
	}
	if c.ask.Action = args[1]; !slices.Contains(actions, c.ask.Action) {
		return cli.Usagef("%q: expected one of %s", args[1], strings.Join(actions, ", "))
	}
	want := 3
	if c.ask.Action == "connect" {
		want = 2
	}
	if len(args) != want {
		return cli.Usagef("%s: expected %d arguments, got %d", c.ask.Action, want, len(args))
	}
	if want == 3 {
		c.ask.Topic = args[2]
	}
	if c.user {
		c.ask.User = args[0]
		return nil
	}
	c.ask.Device = args[0]
	return nil
}

// sound says that the file has no errors.
func (c *checking) sound(env *cli.Env) error {
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]any{"file": c.with, "ok": true})
	}
	_, err := fmt.Fprintf(env.Stdout, "%s: no errors\n", c.with)
	return err
}
