// Package audit is the command "fairlead audit": who did what to the broker, and what was
// refused. Begin with [Command].
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fairlead/admin"
	"fairlead/audit"
	"fairlead/cli"
)

// Command is "fairlead audit".
var Command = &cli.Command{
	Name: "audit", Group: "Who may do what", Summary: "show who did what, and whether that log is whole",
	About: `Every administrative act and every refusal is in the audit log: who, what, from where, before and
after. Its entries are chained by hashes, so that one that was changed or taken away shows.

With --data the files in DIR/audit are read: the broker need not run.`,
	Examples: []cli.Example{
		{What: "the latest", Line: "fairlead audit list"},
		{What: "is the log what was written?", Line: "fairlead audit verify"},
	},
	Commands: []*cli.Command{listCommand, verifyCommand},
}

// dirName is where node keeps the log, within the data directory.
const dirName = "audit"

// command is what all the commands share.
type command struct {
	cli.Target
	asJSON bool
}

// dir is where the log's files are, if they are on this machine.
func (c *command) dir(env *cli.Env) (string, error) {
	data, err := c.Dir(env)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(data, dirName)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no audit log in %s: %w", data, fs.ErrNotExist)
	}
	return dir, nil
}

// listDefault is how many entries are listed unless more are asked for.
const listDefault = 100

var listCommand = &cli.Command{
	Name: "list", Summary: "list entries, the newest first",
	About: `Flags that are given together must all fit. A refusal that came again and again within a minute
is one entry with a count.`,
	Examples: []cli.Example{
		{What: "what was refused in the last hour", Line: "fairlead audit list --kind refusal --since 1h"},
		{What: "what was done to a device, with all details", Line: "fairlead audit list --object door-1 -v"},
		{What: "everything about devices, for a script", Line: "fairlead audit list --action device. --limit 1000000 --json"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &listing{paging: cli.Paging{Limit: listDefault}}
		f := cli.NewFlags()
		f.Past(&c.query.Since, "since", "WHEN", "not before: a time like 2026-11-25 or \"2026-11-25 12:00\",\nor how long ago: 2h, 7d")
		f.Past(&c.query.Until, "until", "WHEN", "and before this")
		f.String(&c.query.Actor, "actor", "NAME", "by this operator, user or device")
		f.String(&c.query.Action, "action", "ACTION", "like device.suspend; with a dot at the end what it begins with: device.")
		f.String(&c.query.Object, "object", "NAME", "what it was done to")
		f.OneOf(&c.query.Kind, "kind", "KIND", "act, refusal, or note (by the log itself)", string(audit.Act), string(audit.Refusal), string(audit.Note))
		f.Bool(&c.verbose, "v,verbose", "with what was before and is after")
		c.paging.Flags(f)
		f.Bool(&c.asJSON, "json", "as JSON, with everything")
		c.Target.Flags(f)
		return f, c.run
	},
}

type listing struct {
	command
	query   admin.AuditQuery
	paging  cli.Paging
	verbose bool
}

func (c *listing) run(ctx context.Context, env *cli.Env, _ []string) error {
	if c.paging.After != "" {
		if _, err := strconv.ParseUint(c.paging.After, 10, 64); err != nil {
			return cli.Usagef("--after: %q: expected the number of an entry", c.paging.After)
		}
	}
	get, err := c.source(ctx, env)
	if err != nil {
		return err
	}
	list := cli.List[admin.AuditEntry]{
		Get: get, Paging: c.paging, JSON: c.asJSON, None: "no such entry",
		Head: []string{"N", "TIME", "KIND", "ACTION", "OBJECT", "WHO", "FROM", "REASON"}, Row: c.row,
	}
	if c.verbose {
		list.Head = append(list.Head, "BEFORE", "AFTER")
	}
	_, err = list.Print(ctx, env)
	return err
}

// source is where pages come from: a broker elsewhere, or the files.
func (c *listing) source(ctx context.Context, env *cli.Env) (func(context.Context, admin.Page) (*admin.List[admin.AuditEntry], error), error) {
	if c.Remote() {
		broker, err := c.Dial(ctx, env)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, p admin.Page) (*admin.List[admin.AuditEntry], error) {
			return broker.Audit(ctx, c.query, p)
		}, nil
	}
	dir, err := c.dir(env)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, p admin.Page) (*admin.List[admin.AuditEntry], error) {
		return c.fromFiles(ctx, env, dir, p)
	}, nil
}

// fromFiles reads a page of the files as the API would answer it.
func (c *listing) fromFiles(ctx context.Context, env *cli.Env, dir string, p admin.Page) (*admin.List[admin.AuditEntry], error) {
	q := audit.Query{
		Since: c.query.Since, Until: c.query.Until, Actor: c.query.Actor, Action: c.query.Action, Object: c.query.Object,
		Kind: audit.Kind(c.query.Kind), Limit: p.Limit,
	}
	if p.After != "" {
		q.After, _ = strconv.ParseUint(p.After, 10, 64) // run has looked, or it is ours
	}
	page, err := audit.List(ctx, dir, q)
	if err != nil {
		return nil, err
	}
	if page.Damaged > 0 {
		fmt.Fprintf(env.Stderr, "%s could not be read: \"fairlead audit verify\" says where\n", cli.Things(page.Damaged, "line"))
	}
	l := &admin.List[admin.AuditEntry]{}
	for _, e := range page.Entries {
		text, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		var entry admin.AuditEntry
		if err := json.Unmarshal(text, &entry); err != nil {
			return nil, err
		}
		l.Items = append(l.Items, entry)
	}
	if page.Next != 0 {
		l.Next = strconv.FormatUint(page.Next, 10)
	}
	return l, nil
}

func (c *listing) row(e admin.AuditEntry) []string {
	kind := e.Kind
	if e.Count > 0 {
		kind += fmt.Sprintf(" ×%s", cli.Count(e.Count))
	}
	cells := []string{
		strconv.FormatUint(e.Number, 10), e.Time.Local().Format(time.DateTime), kind,
		cell(e.Action), cell(e.Object), who(&e.Actor), cell(e.Source), cell(e.Reason),
	}
	if c.verbose {
		cells = append(cells, cell(string(e.Before)), cell(string(e.After)))
	}
	return cells
}

// cell is a text that a stranger may have caused.
func cell(text string) string {
	if text == "" {
		return ""
	}
	return cli.Printable(text)
}

// who is "anna (admin, by token)".
func who(a *admin.AuditActor) string {
	var words []string
	if a.Role != "" {
		words = append(words, a.Role)
	}
	if a.How != "" {
		words = append(words, "by "+a.How)
	}
	name := cell(a.Name)
	if name == "" {
		name = "?"
	}
	if len(words) == 0 {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, strings.Join(words, ", "))
}
