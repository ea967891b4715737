// Package user is the command "fairlead user": the people and tools that connect with a
// User Name, or administer the broker. Begin with [Command].
package user

import (
	"context"
	"fmt"
	"strings"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead user".
var Command = &cli.Command{
	Name: "user", Group: "Who may do what", Summary: "add users, and say what part they have in administration",
	About: `A user is a person or a tool, such as Home Assistant, with a User Name and a password. It may do
what policies allow it or its groups; without one it may connect and nothing else.

A role lets it administer the broker and use all topics: viewer reads, operator looks after
devices, admin does everything.`,
	Examples: []cli.Example{
		{What: "a user", Line: "fairlead user add anna --password-stdin < anna.password"},
		{What: "one who may look after devices, with a token and no password", Line: "fairlead user add ci --role operator; fairlead token add --user ci > ci.token"},
		{What: "keep somebody out", Line: "fairlead user set anna --disable"},
	},
	Commands: []*cli.Command{addCommand, listCommand, showCommand, setCommand, removeCommand},
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

// roles are what --role takes.
var roles = []string{"none", "viewer", "operator", "admin"}

const passwordHelp = "its password is the first line of standard input"

var addCommand = &cli.Command{
	Name: "add", Usage: "NAME", Summary: "add a user",
	About: `A password has at least 8 characters. It is not on the command line, where everybody on this
machine could see it. A user without one can have a token.`,
	Examples: []cli.Example{
		{What: "with a password from a file", Line: "fairlead user add homeassistant --password-stdin --group home < secret"},
		{What: "an operator", Line: "fairlead user add ci --role operator"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &adding{}
		f := cli.NewFlags()
		f.Bool(&c.stdin, "password-stdin", passwordHelp)
		f.Strings(&c.spec.Groups, "group", "GROUP", "put it into GROUP; may be repeated")
		f.OneOf(&c.role, "role", "ROLE", "viewer, operator or admin; default none", roles...)
		return c.finish(f), c.run
	},
}

type adding struct {
	command
	stdin bool
	role  string
	spec  admin.UserSpec
}

func (c *adding) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	c.spec.Name, c.spec.Role = name, asRole(c.role)
	if c.stdin {
		if c.spec.Password, err = cli.PasswordFrom(env.Stdin); err != nil {
			return err
		}
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	u, err := broker.AddUser(ctx, c.spec)
	if err != nil {
		return err
	}
	return c.say(env, u, "added")
}

// asRole is the API's word for a role.
func asRole(flag string) string {
	if flag == "none" {
		return ""
	}
	return flag
}

// say says what was done, and how the user is now.
func (c *command) say(env *cli.Env, u *admin.User, done string) error {
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, u)
	}
	words := []string{u.Name + " is " + done}
	if u.Disabled {
		words = append(words, "disabled")
	}
	if u.Role != "" {
		words = append(words, u.Role)
	}
	if len(u.Groups) > 0 {
		words = append(words, "in "+strings.Join(u.Groups, ", "))
	}
	if !u.Password {
		words = append(words, "without a password")
	}
	_, err := fmt.Fprintln(env.Stdout, strings.Join(words, ", "))
	return err
}

var listCommand = &cli.Command{
	Name: "list", Summary: "list users",
	Examples: []cli.Example{
		{What: "all", Line: "fairlead user list"},
		{What: "who may administer the broker", Line: "fairlead user list --json | jq -r '.[] | select(.role != \"\").name'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &listing{}
		f := cli.NewFlags()
		c.paging.Flags(f)
		return c.finish(f), c.run
	},
}

type listing struct {
	command
	paging cli.Paging
}

func (c *listing) run(ctx context.Context, env *cli.Env, _ []string) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	list := cli.List[admin.User]{
		Get: broker.Users, Paging: c.paging, JSON: c.asJSON, None: "no users",
		Head: []string{"NAME", "ROLE", "GROUPS", "STATE", "PASSWORD"},
		Row: func(u admin.User) []string {
			return []string{u.Name, u.Role, strings.Join(u.Groups, ","), state(&u), password(&u)}
		},
	}
	_, err = list.Print(ctx, env)
	return err
}

func state(u *admin.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "active"
}

func password(u *admin.User) string {
	if u.Password {
		return "set"
	}
	return "none"
}

var showCommand = &cli.Command{
	Name: "show", Usage: "NAME", Summary: "show all that is known of a user",
	Examples: []cli.Example{{What: "one user", Line: "fairlead user show anna"}},
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
	u, err := broker.User(ctx, name)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, u)
	}
	t := &cli.Table{}
	t.Row("name", u.Name)
	t.Row("role", u.Role)
	t.Row("groups", strings.Join(u.Groups, ", "))
	t.Row("state", state(u))
	t.Row("password", password(u))
	t.Row("added", u.Created.Local().Format(time.DateTime))
	t.Row("changed", u.Updated.Local().Format(time.DateTime))
	return t.Print(env.Stdout, "")
}

var setCommand = &cli.Command{
	Name: "set", Usage: "NAME", Summary: "change a user",
	About: "What is not named stays. Connections that are no longer allowed end within a second.",
	Examples: []cli.Example{
		{What: "another password", Line: "fairlead user set anna --password-stdin < anna.password"},
		{What: "another part in administration", Line: "fairlead user set ci --role viewer"},
		{What: "into a group, out of another", Line: "fairlead user set anna --group night --no-group day"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &setting{}
		f := cli.NewFlags()
		f.Bool(&c.stdin, "password-stdin", passwordHelp)
		f.Bool(&c.noPassword, "no-password", "it has none any more")
		f.Strings(&c.groups, "group", "GROUP", "put it into GROUP; may be repeated")
		f.Strings(&c.noGroups, "no-group", "GROUP", "take it out of GROUP; may be repeated")
		f.OneOf(&c.role, "role", "ROLE", "none, viewer, operator or admin", roles...)
		f.Bool(&c.disable, "disable", "keep it out")
		f.Bool(&c.enable, "enable", "let it in again")
		return c.finish(f), c.run
	},
}

type setting struct {
	command
	stdin, noPassword, disable, enable bool
	role                               string
	groups, noGroups                   []string
}

func (c *setting) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	patch, err := c.patch(env)
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	u, err := broker.User(ctx, name)
	if err != nil {
		return err
	}
	patch.Rev = u.Rev // somebody else's change meanwhile is not undone
	if len(c.groups)+len(c.noGroups) > 0 {
		groups := cli.Changed(u.Groups, c.groups, c.noGroups)
		patch.Groups = &groups
	}
	if u, err = broker.UpdateUser(ctx, name, *patch); err != nil {
		return err
	}
	return c.say(env, u, "changed")
}

// patch is what the flags say, but for the groups.
func (c *setting) patch(env *cli.Env) (*admin.UserPatch, error) {
	switch {
	case c.disable && c.enable:
		return nil, cli.Usagef("--disable and --enable: expected one of them")
	case c.stdin && c.noPassword:
		return nil, cli.Usagef("--password-stdin and --no-password: expected one of them")
	case !c.stdin && !c.noPassword && !c.disable && !c.enable && c.role == "" && len(c.groups)+len(c.noGroups) == 0:
		return nil, cli.Usagef("nothing to change: expected --password-stdin, --no-password, --group, --no-group, --role, --disable or --enable")
	}
	patch := &admin.UserPatch{}
	if c.role != "" {
		role := asRole(c.role)
		patch.Role = &role
	}
	if c.disable || c.enable {
		patch.Disabled = &c.disable
	}
	if c.noPassword {
		patch.Password = new(string)
	}
	if c.stdin {
		password, err := cli.PasswordFrom(env.Stdin)
		if err != nil {
			return nil, err
		}
		patch.Password = &password
	}
	return patch, nil
}

var removeCommand = &cli.Command{
	Name: "remove", Usage: "NAME", Summary: "remove a user",
	About:    "Its connections end within a second. Its tokens stand for nobody then.",
	Examples: []cli.Example{{What: "one user", Line: "fairlead user remove anna"}},
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
	if err := broker.RemoveUser(ctx, name, 0); err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]string{"removed": name})
	}
	_, err = fmt.Fprintf(env.Stdout, "%s is removed\n", name)
	return err
}
