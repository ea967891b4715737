// Package policy is the command "fairlead policy": who may do what, and what somebody
// who steals a device's key could do. Begin with [Command].
package policy

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"fairlead/admin"
	"fairlead/cli"
	"fairlead/document"
	"fairlead/policy"
)

// Command is "fairlead policy".
var Command = &cli.Command{
	Name: "policy", Group: "Who may do what", Summary: "say who may do what, and see what that means",
	About: `A policy is a paragraph of YAML that grants rights to devices, groups or users; what none
grants is refused. You need none to begin with: every device has its own topics. The
language is in docs/policies.md.`,
	Examples: []cli.Example{
		{What: "what would a file change, and for whom", Line: "fairlead policy diff sensors.yaml"},
		{What: "put it in force", Line: "fairlead policy apply sensors.yaml"},
		{What: "may this device do that, and by which rule", Line: "fairlead policy check t1 publish plant/berlin/t1/temperature"},
		{What: "what does a thief of its key get", Line: "fairlead policy blast-radius t1"},
	},
	Commands: []*cli.Command{applyCommand, showCommand, checkCommand, diffCommand, blastCommand, suggestCommand, removeCommand},
}

// command is what all the commands share.
type command struct {
	cli.Target
	asJSON bool
}

// finish adds the flags that all the commands have.
func (c *command) finish(f *cli.Flags) *cli.Flags {
	f.Bool(&c.asJSON, "json", "as JSON")
	c.Target.Flags(f)
	return f
}

// file is a document that is not in force yet.
type file struct {
	name string // that the broker keeps it under
	text []byte
}

// stdin is what stands for standard input where a file is expected.
const stdin = "-"

// readFile reads a document of policies, and checks it before anything is sent. Its
// errors name the places in the file.
func readFile(env *cli.Env, path, name string) (*file, error) {
	if name == "" {
		if path == stdin {
			return nil, cli.Usagef("standard input has no name: give --name NAME")
		}
		name = filepath.Base(path)
	}
	text, err := readText(env, path)
	if err != nil {
		return nil, err
	}
	if path == stdin {
		path = name
	}
	if _, err := policy.Parse(path, text); err != nil {
		return nil, &notApplied{err}
	}
	return &file{name: name, text: text}, nil
}

func readText(env *cli.Env, path string) ([]byte, error) {
	in := env.Stdin
	if path != stdin {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, document.BytesMax+1)) // beyond the limit, Parse says so
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// notApplied is what is wrong with a file: a line each, with its place.
type notApplied struct{ err error }

func (e *notApplied) Error() string {
	return "the file has errors, nothing was sent:\n" + e.err.Error()
}

func (e *notApplied) Unwrap() error { return e.err }

var applyCommand = &cli.Command{
	Name: "apply", Usage: "FILE", Summary: "put a file of policies in force",
	About: `The broker keeps the file under its name, with a version, and it replaces what it kept
under that name before. It is in force at once: who may no longer do what it does is
stopped within a second, everybody else goes on undisturbed. "-" is standard input.

"fairlead policy diff FILE" says before who would gain and lose what.`,
	Examples: []cli.Example{
		{What: "a file", Line: "fairlead policy apply sensors.yaml"},
		{What: "only if nobody has changed it since version 3", Line: "fairlead policy apply sensors.yaml --if-version 3"},
		{What: "what a device really did, as its policy", Line: "fairlead policy suggest t1 | fairlead policy apply - --name t1.yaml"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &applying{version: admin.AnyVersion}
		f := cli.NewFlags()
		f.String(&c.name, "name", "NAME", "keep it under NAME; default: the file's")
		f.Int(&c.version, "if-version", "VERSION", 0, math.MaxInt, "only if it replaces this version; 0: none")
		return c.finish(f), c.run
	},
}

type applying struct {
	command
	name    string
	version int
}

func (c *applying) run(ctx context.Context, env *cli.Env, args []string) error {
	path, err := cli.One(args, "FILE")
	if err != nil {
		return err
	}
	f, err := readFile(env, path, c.name)
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	p, err := broker.ApplyPolicy(ctx, f.name, f.text, c.version)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, p)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s is in force, version %d\n", cli.Printable(p.Name), p.Version)
	return err
}

var showCommand = &cli.Command{
	Name: "show", Usage: "[NAME]", Summary: "show the policies in force",
	About: `Without a NAME, lists them. Version 0 is a file of the broker's configuration, which can only
be changed there. The policies that are always there are in docs/policies.md.`,
	Examples: []cli.Example{
		{What: "which there are", Line: "fairlead policy show"},
		{What: "one of them, to change it", Line: "fairlead policy show sensors.yaml > sensors.yaml"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.finish(cli.NewFlags()), c.show
	},
}

func (c *command) show(ctx context.Context, env *cli.Env, args []string) error {
	if len(args) > 1 {
		return cli.Usagef("expected at most one NAME, got %d arguments", len(args))
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return c.showOne(ctx, env, broker, args[0])
	}
	l, err := broker.Policies(ctx)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, l.Items)
	}
	if len(l.Items) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "none but those that are always there: a device has its own topics")
		return err
	}
	t := &cli.Table{}
	t.Row("NAME", "VERSION", "SINCE", "BY")
	for _, p := range l.Items {
		since, by := "", cli.Printable(p.By)
		if p.Applied != nil {
			since = p.Applied.Local().Format(time.DateTime)
		}
		if p.Version == 0 {
			by = "the configuration"
		}
		t.Row(cli.Printable(p.Name), fmt.Sprint(p.Version), since, by)
	}
	return t.Print(env.Stdout, "")
}

func (c *command) showOne(ctx context.Context, env *cli.Env, broker *admin.Client, name string) error {
	p, err := broker.Policy(ctx, name)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, p)
	}
	_, err = io.WriteString(env.Stdout, p.Text)
	return err
}

var removeCommand = &cli.Command{
	Name: "remove", Usage: "NAME", Summary: "take a file of policies out of force",
	About: "What only it allowed is over at once, and what only it denied is allowed at once.",
	Examples: []cli.Example{
		{What: "by the name that it was applied under", Line: "fairlead policy remove sensors.yaml"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.finish(cli.NewFlags()), c.remove
	},
}

func (c *command) remove(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	if err := broker.RemovePolicy(ctx, name); err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]string{"removed": name})
	}
	_, err = fmt.Fprintf(env.Stdout, "%s is no longer in force\n", cli.Printable(name))
	return err
}

var suggestCommand = &cli.Command{
	Name: "suggest", Usage: "DEVICE", Summary: "draft the least policy that covers what a device did",
	About: `Made of the subscriptions that it has and the topics that it lately published to.
Review it: a device that was stolen already did what the thief wanted.`,
	Examples: []cli.Example{
		{What: "look at it", Line: "fairlead policy suggest t1"},
		{What: "what would it change", Line: "fairlead policy suggest t1 | fairlead policy diff - --name t1.yaml"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.finish(cli.NewFlags()), c.suggest
	},
}

func (c *command) suggest(ctx context.Context, env *cli.Env, args []string) error {
	device, err := cli.One(args, "DEVICE")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	s, err := broker.SuggestPolicy(ctx, device)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, s)
	}
	seen := fmt.Sprintf("%s and %s were seen", cli.Things(s.Subscribed, "subscription"), cli.Things(s.Published, "topic"))
	switch {
	case s.Text == "" && s.Subscribed+s.Published == 0:
		seen = "nothing was seen of it: let it do its work, and ask again"
	case s.Text == "":
		seen += ", and it may do all that already"
	}
	fmt.Fprintf(env.Stderr, "%s: %s\n", device, seen)
	_, err = io.WriteString(env.Stdout, s.Text)
	return err
}

// errNo ends a command whose answer is no, which was printed.
var errNo = &cli.ExitError{Code: cli.ExitFailed}
