package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"fairlead/admin"
	"fairlead/audit"
	"fairlead/cli"
)

var verifyCommand = &cli.Command{
	Name: "verify", Summary: "say whether the log is what was written",
	About: `Checks each entry against its hash, and against the one before. Whoever can write all the files
can also make a new chain: against that, keep number and hash of the last entry elsewhere
from time to time, and give them with --anchor.

Exit code: 0 it is whole, 1 it is not, or could not be read, 2 wrong command line.`,
	Examples: []cli.Example{
		{What: "of the broker in ./fairlead-data, also while that is stopped", Line: "fairlead audit verify"},
		{What: "keep an anchor elsewhere", Line: "scp /var/lib/fairlead/audit/anchor backup:anchors/$(date +%F)"},
		{What: "and check against it", Line: "fairlead audit verify --anchor anchors/2026-11-01"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &verifying{}
		f := cli.NewFlags()
		f.Func("anchor", "FILE|N:HASH", "number and hash of an entry, kept elsewhere; may be repeated.\nFILE is a copy of DIR/audit/anchor", c.addAnchor)
		f.Bool(&c.asJSON, "json", "as JSON")
		c.Target.Flags(f)
		return f, c.run
	},
}

type verifying struct {
	command
	anchors []audit.Anchor
}

// anchorText is an anchor as the command prints it.
var anchorText = regexp.MustCompile(`^(\d{1,20}):([0-9a-f]{64})$`)

// anchorBytesMax bounds a file that is to be an anchor.
const anchorBytesMax = 4096

func (c *verifying) addAnchor(s string) error {
	var a audit.Anchor
	if m := anchorText.FindStringSubmatch(s); m != nil {
		n, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			return fmt.Errorf("%q: expected the number of an entry and its hash", s)
		}
		a.Number = n
		if err := a.Hash.UnmarshalText([]byte(m[2])); err != nil {
			return err
		}
		c.anchors = append(c.anchors, a)
		return nil
	}
	f, err := os.Open(s)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, anchorBytesMax))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Number == 0 {
		return fmt.Errorf(`%s: expected {"n":NUMBER,"hash":"HASH"}`, s)
	}
	c.anchors = append(c.anchors, a)
	return nil
}

func (c *verifying) run(ctx context.Context, env *cli.Env, _ []string) error {
	r, err := c.verify(ctx, env)
	if ctx.Err() != nil {
		return cli.TimedOut(ctx)
	}
	if err != nil {
		return err
	}
	if c.asJSON {
		err = cli.PrintJSON(env.Stdout, r)
	} else {
		err = printReport(env.Stdout, r)
	}
	if err == nil && !r.OK {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return err
}

func (c *verifying) verify(ctx context.Context, env *cli.Env) (*admin.AuditReport, error) {
	if c.Remote() {
		broker, err := c.Dial(ctx, env)
		if err != nil {
			return nil, err
		}
		anchors := make([]admin.AuditAnchor, len(c.anchors))
		for i, a := range c.anchors {
			anchors[i] = admin.AuditAnchor{Number: a.Number, Hash: a.Hash.String()}
		}
		return broker.VerifyAudit(ctx, anchors...)
	}
	dir, err := c.dir(env)
	if err != nil {
		return nil, err
	}
	meter := cli.NewMeter(env)
	defer meter.Clear()
	r, err := audit.Verify(ctx, dir, audit.VerifyOptions{Anchors: c.anchors, Progress: func(p audit.Progress) {
		meter.Show(func() string {
			return fmt.Sprintf("%3d %% of %s", p.Bytes*100/max(1, p.TotalBytes), cli.Size(p.TotalBytes))
		})
	}})
	if err != nil {
		return nil, err
	}
	return asReport(&r), nil
}

// asReport is a report as the API answers it.
func asReport(r *audit.Report) *admin.AuditReport {
	out := &admin.AuditReport{
		OK: r.OK(), Files: r.Files, Entries: r.Entries, Bytes: r.Bytes, First: r.First, Last: r.Last, LastHash: r.LastHash.String(),
		Removed: r.Removed, Lost: r.Lost, Wrong: []admin.AuditWrong{}, More: r.More,
	}
	for _, w := range r.Wrong {
		out.Wrong = append(out.Wrong, admin.AuditWrong{File: w.File, Line: w.Line, Number: w.Number, Expected: w.Expected, Found: w.Found})
	}
	return out
}

func printReport(to io.Writer, r *admin.AuditReport) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, w := range r.Wrong {
		place := w.File
		if w.Line > 0 {
			place += ":" + strconv.Itoa(w.Line)
		}
		line("WRONG: %s: expected %s, found %s", place, w.Expected, w.Found)
	}
	if r.More > 0 {
		line("WRONG: %s more", cli.Things(r.More, "place"))
	}
	switch {
	case r.Entries > 0:
		line("%s (%d to %d) in %s, %s", entries(r.Entries), r.First, r.Last, cli.Things(r.Files, "file"), cli.Size(r.Bytes))
		line("the last one: %d:%s", r.Last, r.LastHash)
	default:
		line("no entries")
	}
	if r.Removed > 0 {
		line("%s older ones were removed because of a limit", cli.Count(r.Removed))
	}
	if r.Lost > 0 {
		line("%s without an entry, because there were too many at once", cli.Things(r.Lost, "refusal"))
	}
	if r.OK {
		line("the log is whole")
	} else {
		line("the log is NOT what was written")
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return cli.Count(n) + " entries"
}
