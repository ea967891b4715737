package device

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fairlead/admin"
	"fairlead/ca"
	"fairlead/cli"
)

// stateCommand is the command that moves a device to another state.
func stateCommand(verb, summary, about string) *cli.Command {
	return &cli.Command{
		Name: verb, Usage: "NAME", Summary: summary, About: about,
		Examples: []cli.Example{
			{What: "one device", Line: "fairlead device " + verb + " door-1"},
			{What: "and say why, for the audit log", Line: "fairlead device " + verb + " door-1 --reason 'ticket 4711'"},
		},
		New: func() (*cli.Flags, cli.Run) {
			c := &moving{verb: verb}
			f := cli.NewFlags()
			f.String(&c.reason, "reason", "TEXT", "why, for the audit log")
			return c.finish(f), c.run
		},
	}
}

type moving struct {
	command
	verb, reason string
}

func (c *moving) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	act := map[string]func(context.Context, string, admin.Change) (*admin.Device, error){
		"suspend": broker.SuspendDevice, "resume": broker.ResumeDevice, "retire": broker.RetireDevice,
	}[c.verb]
	d, err := act(ctx, name, admin.Change{Reason: c.reason})
	if err != nil {
		return err
	}
	return c.changed(env, d)
}

// changed says how a device is now.
func (c *command) changed(env *cli.Env, d *admin.Device) error {
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, d)
	}
	words := []string{"in no group"}
	if len(d.Groups) > 0 {
		words[0] = "in " + strings.Join(d.Groups, ", ")
	}
	if len(d.Attrs) > 0 {
		words = append(words, attributes(d.Attrs))
	}
	_, err := fmt.Fprintf(env.Stdout, "%s is %s, %s\n", d.Name, d.State, strings.Join(words, ", with "))
	return err
}

var setCommand = &cli.Command{
	Name: "set", Usage: "NAME", Summary: "change a device's groups and attributes",
	About: `What is not named stays. Rights change at once: a subscription that is no longer allowed
ends within a second, everything else goes on.`,
	Examples: []cli.Example{
		{What: "into a group, out of another", Line: "fairlead device set t1 --group sensors --no-group spare"},
		{What: "another place", Line: "fairlead device set t1 --attr site=paris --no-attr floor"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &setting{}
		f := cli.NewFlags()
		f.Strings(&c.groups, "group", "GROUP", "put it into GROUP; may be repeated")
		f.Strings(&c.noGroups, "no-group", "GROUP", "take it out of GROUP; may be repeated")
		f.Pairs(&c.attrs, "attr", "give it an attribute; may be repeated")
		f.Strings(&c.noAttrs, "no-attr", "KEY", "take an attribute away; may be repeated")
		return c.finish(f), c.run
	},
}

type setting struct {
	command
	groups, noGroups, noAttrs []string
	attrs                     map[string]string
}

func (c *setting) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	if len(c.groups)+len(c.noGroups)+len(c.attrs)+len(c.noAttrs) == 0 {
		return cli.Usagef("nothing to change: expected --group, --no-group, --attr or --no-attr")
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	d, err := broker.Device(ctx, name)
	if err != nil {
		return err
	}
	patch := admin.DevicePatch{Rev: d.Rev} // somebody else's change meanwhile is not undone
	if len(c.groups)+len(c.noGroups) > 0 {
		groups := cli.Changed(d.Groups, c.groups, c.noGroups)
		patch.Groups = &groups
	}
	if len(c.attrs)+len(c.noAttrs) > 0 {
		attrs := maps.Clone(d.Attrs)
		if attrs == nil {
			attrs = make(map[string]string)
		}
		maps.Copy(attrs, c.attrs)
		maps.DeleteFunc(attrs, func(k, _ string) bool { return slices.Contains(c.noAttrs, k) })
		patch.Attrs = &attrs
	}
	if d, err = broker.UpdateDevice(ctx, name, patch); err != nil {
		return err
	}
	return c.changed(env, d)
}

var revokeCommand = &cli.Command{
	Name: "revoke", Usage: "NAME SERIAL...", Summary: "make certificates of a device invalid",
	About: `Connections that were made with them end within a second. "fairlead device show" has the serial
numbers. To keep a device out as such, suspend or retire it.`,
	Examples: []cli.Example{
		{What: "one", Line: "fairlead device revoke door-1 5f3a9c"},
		{What: "all: the device then needs \"fairlead device renew\"", Line: "fairlead device revoke door-1 --all --reason 'key published by mistake'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &revoking{}
		f := cli.NewFlags()
		f.Bool(&c.all, "all", "all that it has now, instead of SERIAL")
		f.String(&c.reason, "reason", "TEXT", "why, for the audit log")
		return c.finish(f), c.run
	},
}

type revoking struct {
	command
	all    bool
	reason string
}

func (c *revoking) run(ctx context.Context, env *cli.Env, args []string) error {
	if len(args) == 0 {
		return cli.Usagef("expected a NAME, and the SERIAL of a certificate or --all")
	}
	name, serials := args[0], args[1:]
	if c.all == (len(serials) > 0) {
		return cli.Usagef("which certificates? expected either SERIAL or --all")
	}
	for i, s := range serials {
		serial, err := ca.ParseSerial(s)
		if err != nil {
			return &cli.UsageError{What: err.Error()}
		}
		serials[i] = string(serial)
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	d, err := broker.Device(ctx, name)
	if err != nil {
		return err
	}
	if c.all {
		for _, cert := range d.Certificates {
			if cert.Revoked == nil {
				serials = append(serials, cert.Serial)
			}
		}
	}
	for _, serial := range serials {
		if d, err = broker.RevokeCertificate(ctx, name, serial, c.reason); err != nil {
			return fmt.Errorf("certificate %s: %w", serial, err)
		}
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, d)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s: %s revoked\n", d.Name, cli.Things(len(serials), "certificate"))
	return err
}

var passwordCommand = &cli.Command{
	Name: "password", Usage: "NAME", Summary: "give a device a password",
	About: `For devices that have no room for a certificate. The password goes with the User Name NAME. A
password that is on the command line would be seen by everybody on this machine.`,
	Examples: []cli.Example{
		{What: "one that nobody can guess, printed once", Line: "fairlead device password lamp-1 --generate"},
		{What: "one of your own", Line: "fairlead device password lamp-1 --password-stdin < lamp-1.password"},
		{What: "none any more", Line: "fairlead device password lamp-1 --remove"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &passwording{}
		f := cli.NewFlags()
		f.Bool(&c.generate, "generate", "make one and print it; it is not kept")
		f.Bool(&c.stdin, "password-stdin", "take the first line of standard input")
		f.Bool(&c.remove, "remove", "take it away")
		return c.finish(f), c.run
	},
}

type passwording struct {
	command
	generate, stdin, remove bool
}

func (c *passwording) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	given := 0
	for _, is := range []bool{c.generate, c.stdin, c.remove} {
		if is {
			given++
		}
	}
	if given != 1 {
		return cli.Usagef("expected one of --generate, --password-stdin and --remove")
	}
	spec := admin.PasswordSpec{Generate: c.generate}
	if c.stdin {
		if spec.Password, err = cli.PasswordFrom(env.Stdin); err != nil {
			return err
		}
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	if c.remove {
		if err := broker.RemoveDevicePassword(ctx, name); err != nil {
			return err
		}
		return c.said(env, &admin.Password{}, name+" has no password any more")
	}
	made, err := broker.SetDevicePassword(ctx, name, spec)
	if err != nil {
		return err
	}
	if made.Password != "" {
		return c.said(env, made, made.Password)
	}
	return c.said(env, made, name+" has a new password")
}

func (c *command) said(env *cli.Env, answer any, text string) error {
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, answer)
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
}
