// Package device is the command "fairlead device": the devices that the broker knows,
// and their keys. Begin with [Command].
package device

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead device".
var Command = &cli.Command{
	Name: "device", Group: "Who may do what", Summary: "add devices, and keep them out again",
	About: `A device has a name, a certificate of the broker's own CA, and by that the right to its
own topics, devices/NAME/#. Groups and attributes are what policies grant more to.`,
	Examples: []cli.Example{
		{What: "a key and a certificate for a new device, in ./door-1", Line: "fairlead device add door-1 --out door-1"},
		{What: "its key was stolen: what could the thief do, and out with it", Line: "fairlead policy blast-radius door-1; fairlead device suspend door-1"},
		{What: "all that are suspended", Line: "fairlead device list --state suspended"},
	},
	Commands: []*cli.Command{
		addCommand, listCommand, showCommand, setCommand,
		stateCommand("suspend", "keep a device out, until it is resumed",
			"Its connections end within a second. Certificates, password, groups and session stay as\nthey are."),
		stateCommand("resume", "let a suspended or pending device in again", ""),
		stateCommand("retire", "keep a device out for good",
			"Its connections end within a second, its certificates are revoked, its password is gone.\nIts name stays taken: \"fairlead device add NAME --again\" gives it to another device."),
		renewCommand, revokeCommand, passwordCommand,
	},
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

var listCommand = &cli.Command{
	Name: "list", Summary: "list devices",
	About: "In the order of their names. What is asked for by several flags must all be so.",
	Examples: []cli.Example{
		{What: "all", Line: "fairlead device list"},
		{What: "of one site and group", Line: "fairlead device list --group sensors --attr site=berlin"},
		{What: "the names, for a script", Line: "fairlead device list --state active --json | jq -r '.[].name'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &listing{}
		f := cli.NewFlags()
		f.String(&c.filter.Prefix, "prefix", "TEXT", "whose name begins with it")
		f.String(&c.filter.Group, "group", "GROUP", "that are in it")
		f.Pairs(&c.filter.Attrs, "attr", "that have this attribute; may be repeated")
		f.OneOf(&c.filter.State, "state", "STATE", "pending, active, suspended or retired", "pending", "active", "suspended", "retired")
		c.paging.Flags(f)
		return c.finish(f), c.run
	},
}

type listing struct {
	command
	filter admin.DeviceFilter
	paging cli.Paging
}

func (c *listing) run(ctx context.Context, env *cli.Env, _ []string) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	now := time.Now()
	list := cli.List[admin.Device]{
		Get: func(ctx context.Context, p admin.Page) (*admin.List[admin.Device], error) {
			return broker.Devices(ctx, c.filter, p)
		},
		Paging: c.paging, JSON: c.asJSON, None: "no such device",
		Head: []string{"NAME", "STATE", "GROUPS", "ATTRIBUTES", "SHOWS"},
		Row: func(d admin.Device) []string {
			return []string{d.Name, d.State, strings.Join(d.Groups, ","), attributes(d.Attrs), shows(&d, now)}
		},
	}
	_, err = list.Print(ctx, env)
	return err
}

// attributes is "site=berlin,floor=2", in the order of the keys.
func attributes(attrs map[string]string) string {
	words := make([]string, 0, len(attrs))
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		words = append(words, cli.Printable(k+"="+attrs[k]))
	}
	return strings.Join(words, ",")
}

// shows is by what a device can show who it is: "certificate until 2028-11-25".
func shows(d *admin.Device, now time.Time) string {
	var words []string
	if last := lastCertificate(d); last != nil {
		word := "certificate until " + last.NotAfter.Local().Format(time.DateOnly)
		if now.After(last.NotAfter) {
			word = "certificate, EXPIRED " + last.NotAfter.Local().Format(time.DateOnly)
		}
		words = append(words, word)
	}
	if d.Password {
		words = append(words, "password")
	}
	return strings.Join(words, ", ")
}

// lastCertificate is the one that is valid for the longest time, or nil.
func lastCertificate(d *admin.Device) *admin.Certificate {
	var last *admin.Certificate
	for i := range d.Certificates {
		if c := &d.Certificates[i]; c.Revoked == nil && (last == nil || c.NotAfter.After(last.NotAfter)) {
			last = c
		}
	}
	return last
}

var showCommand = &cli.Command{
	Name: "show", Usage: "NAME", Summary: "show all that is known of a device",
	Examples: []cli.Example{
		{What: "one device", Line: "fairlead device show door-1"},
		{What: "the serial numbers of its certificates", Line: "fairlead device show door-1 --json | jq -r '.certificates[].serial'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.finish(cli.NewFlags()), c.show
	},
}

func (c *command) show(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	d, err := broker.Device(ctx, name)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, d)
	}
	return printDevice(env, d, time.Now())
}

func printDevice(env *cli.Env, d *admin.Device, now time.Time) error {
	t := &cli.Table{}
	t.Row("name", d.Name)
	t.Row("state", d.State)
	t.Row("groups", strings.Join(d.Groups, ", "))
	for _, k := range slices.Sorted(maps.Keys(d.Attrs)) {
		t.Row("attr "+k, cli.Printable(d.Attrs[k]))
	}
	password := "none"
	if d.Password {
		password = "set"
	}
	t.Row("password", password)
	t.Row("added", d.Created.Local().Format(time.DateTime))
	t.Row("changed", d.Updated.Local().Format(time.DateTime))
	if err := t.Print(env.Stdout, ""); err != nil || len(d.Certificates) == 0 {
		return err
	}
	t = &cli.Table{}
	t.Row("CERTIFICATE", "STATE", "UNTIL", "SHA-256")
	for _, c := range d.Certificates {
		state := "good"
		switch {
		case c.Revoked != nil:
			state = "revoked " + c.Revoked.Local().Format(time.DateOnly)
			if c.Reason != "" {
				state += ": " + cli.Printable(c.Reason)
			}
		case now.After(c.NotAfter):
			state = "expired"
		}
		t.Row(c.Serial, state, c.NotAfter.Local().Format(time.DateOnly), c.Fingerprint)
	}
	if _, err := fmt.Fprintln(env.Stdout); err != nil {
		return err
	}
	return t.Print(env.Stdout, "")
}
