// Package ca is the command "fairlead ca": the broker's own certificate authority. Begin
// with [Command].
package ca

import (
	"context"
	"fmt"
	"strings"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead ca".
var Command = &cli.Command{
	Name: "ca", Group: "Who may do what", Summary: "show the broker's certificate authority",
	About: "The broker has a CA of its own, which makes its certificate and those of the devices.",
	Examples: []cli.Example{
		{What: "what ends when", Line: "fairlead ca show"},
		{What: "what a client needs to know the broker", Line: "fairlead ca root > ca.crt"},
	},
	Commands: []*cli.Command{showCommand,
		pemCommand("root", "print the certificate that clients trust (PEM)", "", (*admin.Client).RootPEM,
			cli.Example{What: "for a client", Line: "fairlead ca root > ca.crt"},
			cli.Example{What: "look at it", Line: "fairlead ca root | openssl x509 -noout -text"}),
		pemCommand("crl", "print the list of revoked certificates (PEM)",
			"For other programs that check certificates of this CA; the broker itself needs no list. It is\nvalid for a week: fetch it every day.", (*admin.Client).CRLPEM,
			cli.Example{What: "for a proxy", Line: "fairlead ca crl > crl.pem"},
			cli.Example{What: "look at it", Line: "fairlead ca crl | openssl crl -noout -text"}),
	},
}

// command is what all the commands share.
type command struct {
	cli.Target
	asJSON bool
}

var showCommand = &cli.Command{
	Name: "show", Summary: "show what the CA works with, and when it ends",
	About: `Exit code: 0 nothing has ended, 1 something has, or the broker could not be asked, 2 wrong
command line.`,
	Examples: []cli.Example{
		{What: "for people", Line: "fairlead ca show"},
		{What: "compare the fingerprint with a ca.crt", Line: "openssl x509 -noout -fingerprint -sha256 -in ca.crt"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		f := cli.NewFlags()
		f.Bool(&c.asJSON, "json", "as JSON")
		c.Target.Flags(f)
		return f, c.show
	},
}

func (c *command) show(ctx context.Context, env *cli.Env, _ []string) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	info, err := broker.CA(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if c.asJSON {
		err = cli.PrintJSON(env.Stdout, info)
	} else {
		err = print(env, info, now)
	}
	for _, e := range info.Expiries {
		if err == nil && now.After(e.NotAfter) {
			return &cli.ExitError{Code: cli.ExitFailed}
		}
	}
	return err
}

func print(env *cli.Env, info *admin.CAInfo, now time.Time) error {
	t := &cli.Table{}
	t.Row("WHAT", "UNTIL", "LEFT")
	for _, e := range info.Expiries {
		t.Row(cli.Printable(e.What), e.NotAfter.Local().Format(time.DateTime), remaining(&e, now))
	}
	if err := t.Print(env.Stdout, ""); err != nil {
		return err
	}
	_, err := fmt.Fprintf(env.Stdout, "\nfingerprint of the root (SHA-256): %s\nrevoked certificates: %s\n",
		colons(info.Fingerprint), cli.Count(info.Revoked))
	return err
}

func remaining(e *admin.Expiry, now time.Time) string {
	how := "nobody renews it"
	if e.Renews {
		how = "renewed by itself"
	}
	if now.After(e.NotAfter) {
		return "ENDED " + cli.Span(now.Sub(e.NotAfter)) + " ago; " + how
	}
	return cli.Span(e.NotAfter.Sub(now)) + "; " + how
}

// colons writes a fingerprint as OpenSSL does.
func colons(hex string) string {
	var b strings.Builder
	for i := 0; i < len(hex); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(strings.ToUpper(hex[i:min(i+2, len(hex))]))
	}
	return b.String()
}

// pemCommand is a command that prints what the CA has as PEM.
func pemCommand(name, summary, about string, get func(*admin.Client, context.Context) ([]byte, error), examples ...cli.Example) *cli.Command {
	return &cli.Command{
		Name: name, Summary: summary, About: about, Examples: examples,
		New: func() (*cli.Flags, cli.Run) {
			c := &command{}
			f := cli.NewFlags()
			f.Bool(&c.asJSON, "json", "as the text pem of a JSON object")
			c.Target.Flags(f)
			return f, func(ctx context.Context, env *cli.Env, _ []string) error { return c.pem(ctx, env, get) }
		},
	}
}

func (c *command) pem(ctx context.Context, env *cli.Env, get func(*admin.Client, context.Context) ([]byte, error)) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	pem, err := get(broker, ctx)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]string{"pem": string(pem)})
	}
	_, err = env.Stdout.Write(pem)
	return err
}
