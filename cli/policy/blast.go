package policy

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"fairlead/admin"
	"fairlead/cli"
)

var blastCommand = &cli.Command{
	Name: "blast-radius", Usage: "[DEVICE]", Summary: "say what somebody who steals a device's key could do",
	About: `For one DEVICE: the topics that a thief of its key could write and read, and whom that reaches,
worst first: clients that are connected now and listen to what the thief can send, then
devices that could be commanded, then those whose data could be read.

With --all, ranks the fleet by a score: twice the devices that could be commanded, and
those that could be read. A device that reaches only its own topics has 0.

Exit code: 0 done, 1 failed, or with --above a score is above the bound, 2 wrong command
line. So it can stand in a pipeline.`,
	Examples: []cli.Example{
		{What: "one device", Line: "fairlead policy blast-radius t1"},
		{What: "the ten worst", Line: "fairlead policy blast-radius --all --limit 10"},
		{What: "no device may reach another one", Line: "fairlead policy blast-radius --all --above 0"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &blasting{above: -1}
		f := cli.NewFlags()
		f.Bool(&c.all, "all", "rank all devices, worst first")
		f.Bool(&c.users, "users", "with --all: users too")
		f.Int(&c.above, "above", "SCORE", 0, math.MaxInt32, "exit code 1 if a score is above it; with --all, list only those")
		f.Int(&c.most, "limit", "COUNT", 1, math.MaxInt, "list at most so many; default: 20 of those that one DEVICE reaches,\nall with --all")
		return c.finish(f), c.run
	},
}

type blasting struct {
	command
	all, users bool
	above      int // -1: no bound
	most       int // 0: the default
}

func (c *blasting) run(ctx context.Context, env *cli.Env, args []string) error {
	if c.all == (len(args) > 0) {
		return cli.Usagef("expected one DEVICE or --all")
	}
	if c.users && !c.all {
		return cli.Usagef("--users is for --all: expected both")
	}
	if c.all {
		return c.rank(ctx, env)
	}
	device, err := cli.One(args, "DEVICE")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	b, err := broker.BlastRadius(ctx, device)
	if err != nil {
		return err
	}
	if c.asJSON {
		err = cli.PrintJSON(env.Stdout, b)
	} else {
		err = printBlast(env.Stdout, b, c.most)
	}
	if err == nil && c.above >= 0 && b.Score > c.above {
		return errNo
	}
	return err
}

// rank lists the fleet, worst first.
func (c *blasting) rank(ctx context.Context, env *cli.Env) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	none := "no device"
	if c.above >= 0 {
		none = fmt.Sprintf("no score is above %d", c.above)
	}
	list := cli.List[admin.Exposure]{
		Get: func(ctx context.Context, p admin.Page) (*admin.List[admin.Exposure], error) {
			return broker.RankDevices(ctx, c.above, c.users, p)
		},
		Paging: cli.Paging{Limit: c.most}, JSON: c.asJSON, None: none,
		Head: []string{"SCORE", "COMMANDS", "DATA", "LIVE", "NAME"},
		Row: func(e admin.Exposure) []string {
			return []string{cli.Count(e.Score), cli.Count(e.Commands), cli.Count(e.Data), cli.Count(e.Live), who(&e)}
		},
	}
	found, err := list.Print(ctx, env)
	if err == nil && c.above >= 0 && found > 0 {
		return errNo
	}
	return err
}

// who is the name of somebody, and what else there is to say.
func who(e *admin.Exposure) string {
	note := ""
	if e.User {
		note = " (user)"
	}
	return cli.Printable(e.Name) + note
}

// victimsMost is how many victims are listed unless more are asked for.
const victimsMost = 20

func printBlast(to io.Writer, b *admin.Blast, most int) error {
	if most == 0 {
		most = victimsMost
	}
	var out strings.Builder
	fmt.Fprintf(&out, "Whoever steals the key of %s can\n", cli.Printable(b.Name))
	bullet := func(format string, args ...any) { fmt.Fprintf(&out, "  "+format+"\n", args...) }
	if b.VictimsTotal == 0 {
		bullet("reach nobody else")
	}
	if b.Live > 0 {
		bullet("send to %s that %s connected now", cli.Things(b.Live, "other client"), isAre(b.Live))
	}
	if b.Commands > 0 {
		bullet("command %s", cli.Things(b.Commands, "other device"))
	}
	if b.Data > 0 {
		bullet("read the data of %s", cli.Things(b.Data, "other device"))
	}
	if b.RetainedTotal > 0 {
		bullet("read %s", cli.Things(b.RetainedTotal, "retained message"))
	}
	fmt.Fprintf(&out, "Score: %s\n", cli.Count(b.Score))
	printTopics(&out, "may publish to", b.Writes, b.WriteDenies)
	printTopics(&out, "may subscribe to", b.Reads, b.ReadDenies)
	printVictims(&out, b, most)
	printSome(&out, "retained messages that it may read", b.Retained, b.RetainedTotal, most)
	_, err := io.WriteString(to, out.String())
	return err
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func printTopics(b *strings.Builder, what string, filters, but []string) {
	if len(filters) == 0 {
		fmt.Fprintf(b, "\n%s: nothing\n", what)
		return
	}
	fmt.Fprintf(b, "\n%s:\n", what)
	for _, f := range filters {
		fmt.Fprintf(b, "  %s\n", cli.Printable(f))
	}
	for _, f := range but {
		fmt.Fprintf(b, "  but not %s\n", cli.Printable(f))
	}
}

// printVictims lists whom a thief reaches, worst first, and by which topics.
func printVictims(b *strings.Builder, blast *admin.Blast, most int) {
	if blast.VictimsTotal == 0 {
		return
	}
	b.WriteString("\nreaches, worst first:\n")
	for i := range blast.Victims[:min(most, len(blast.Victims))] {
		v := &blast.Victims[i]
		fmt.Fprintf(b, "  %s%s\n", cli.Printable(v.Name), clientNote(v.Name, v.Client, false))
		for _, kind := range []struct {
			what    string
			filters []string
		}{{"connected, hears", v.Live}, {"can be commanded by", v.Commands}, {"can be read on", v.Data}} {
			if len(kind.filters) > 0 {
				fmt.Fprintf(b, "    %s %s\n", kind.what, joined(kind.filters))
			}
		}
	}
	if more := blast.VictimsTotal - min(most, len(blast.Victims)); more > 0 {
		fmt.Fprintf(b, "  … and %s more\n", cli.Count(more))
	}
}

func joined(filters []string) string {
	words := make([]string, len(filters))
	for i, f := range filters {
		words[i] = cli.Printable(f)
	}
	return strings.Join(words, ", ")
}

func printSome(b *strings.Builder, what string, list []string, total, most int) {
	if total == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", what)
	for _, s := range list[:min(most, len(list))] {
		fmt.Fprintf(b, "  %s\n", cli.Printable(s))
	}
	if more := total - min(most, len(list)); more > 0 {
		fmt.Fprintf(b, "  … and %s more\n", cli.Count(more))
	}
}
