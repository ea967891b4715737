package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"fairlead/cli"
	"fairlead/cli/root"
)

// run is one command line: its exit code and what it prints.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err,
		Getenv: func(string) string { return "" }, Environ: func() []string { return nil }}
	code = cli.Main(context.Background(), env, root.Command, args)
	return code, out.String(), err.String()
}

// commands are all command lines that do something.
func commands(c *cli.Command, path []string, each func(c *cli.Command, path []string)) {
	if len(path) > 0 {
		each(c, path)
	}
	for _, next := range c.Commands {
		commands(next, append(path[:len(path):len(path)], next.Name), each)
	}
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	commands(root.Command, nil, func(c *cli.Command, path []string) {
		name := strings.Join(path, " ")
		code, out, _ := run(t, append(path, "--help")...)
		if code != cli.ExitOK || !strings.Contains(out, "Examples:") || c.Summary == "" {
			t.Errorf("fairlead %s --help: exit code %d, summary %q\n%s", name, code, c.Summary, out)
		}
		for _, e := range c.Examples {
			if !strings.Contains(out, e.Line) {
				t.Errorf("fairlead %s --help does not show %q", name, e.Line)
			}
		}
	})
}

func TestWrongCommandLines(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"serv", `unknown command "serv"`},
		{"serve --opne", "unknown flag --opne"},
		{"serve --listen http://x --open", `scheme "http": expected mqtt, mqtts, ws, wss or unix`},
		{"serve --listen mqtt://0.0.0.0:1 --open", "expected loopback addresses only"},
		{"serve --set limits.inflight=x", `limits.inflight: "x": expected a whole number from 0 to 65535`},
		{"serve --set nothing", "expected KEY=VALUE"},
		{"serve --config does-not-exist.yaml", "does-not-exist.yaml"},
		{"pub -t a", "nothing to send"},
		{"pub -m x", "no topic"},
		{"pub -t a/# -m x", "wildcard"},
		{"pub -t a -m x -q 3", "whole number from 0 to 2"},
		{"pub -t a -m x -n", "more than one payload"},
		{"sub", "no topic"},
		{"sub -t a/b#", "'#'"},
		{"sub -t a -F %", "-F"},
		{"bench pairs --pubs 2 --subs 3", "pairs need as many of both"},
		{"bench fanin --subs 3", "one subscriber"},
		{"bench pairs --size 5", "whole number from 20"},
		{"bench everything", "unknown command"},
		{"sub -t a -W 0", "a span of time above 0"},
		{"pub -t a -m x -W 0", "a span of time above 0"},
		{"pub -t a -m x -D publish topic-alias 0", "whole number from 1 to 65535"},
		{"pub -t a -m x --max-inflight 0", "whole number from 1 to 65535"},
		{"serve --listen mqtt://127.0.0.1:70000 --open", "port 70000"},
	} {
		code, _, stderr := run(t, strings.Fields(test.args)...)
		if code != cli.ExitUsage || !strings.Contains(stderr, test.want) {
			t.Errorf("fairlead %s: exit code %d, want %d; stderr %q, want %q", test.args, code, cli.ExitUsage, stderr, test.want)
		}
	}
}

func TestNoBroker(t *testing.T) {
	for _, args := range []string{"pub -h 127.0.0.1 -p 1 -t a -m x", "sub -h 127.0.0.1 -p 1 -t a", "bench pairs -h 127.0.0.1 -p 1 --duration 1s"} {
		code, _, stderr := run(t, strings.Fields(args)...)
		if code != cli.ExitFailed || !strings.Contains(stderr, "refused") {
			t.Errorf("fairlead %s: exit code %d, stderr %q", args, code, stderr)
		}
	}
}

// TestEveryScenarioTakesTheSameFlags runs all scenarios as one script would: what
// does not apply to one is taken all the same.
func TestEveryScenarioTakesTheSameFlags(t *testing.T) {
	for _, name := range []string{"pairs", "fanin", "fanout", "connect", "idle"} {
		code, _, stderr := run(t, strings.Fields("bench "+name+" -h 127.0.0.1 -p 1 --qos 1 --size 64 --duration 1s --json")...)
		if code != cli.ExitFailed || !strings.Contains(stderr, "refused") {
			t.Errorf("bench %s: exit code %d, stderr %q, want a refused connection", name, code, stderr)
		}
	}
}

// TestMosquittoFlags gives flags of mosquitto's clients that matter little here:
// scripts have them.
func TestMosquittoFlags(t *testing.T) {
	for args, want := range map[string]string{
		"pub -h 127.0.0.1 -p 1 -t a -m x --nodelay -M 5": "refused",
		"sub -h 127.0.0.1 -p 1 -t a --nodelay":           "refused",
		"pub -h 127.0.0.1 -p 1 -t a -m x --quiet":        "",
		"sub -h 127.0.0.1 -p 1 -t a --quiet":             "",
	} {
		code, _, stderr := run(t, strings.Fields(args)...)
		if code != cli.ExitFailed || !strings.Contains(stderr, want) || want == "" && stderr != "" {
			t.Errorf("fairlead %s: exit code %d, stderr %q, want %q", args, code, stderr, want)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, out, _ := run(t, "--version"); code != 0 || !strings.HasPrefix(out, "fairlead ") {
		t.Errorf("--version: exit code %d, %q", code, out)
	}
	code, out, _ := run(t, "version", "--json")
	var v map[string]string
	if err := json.Unmarshal([]byte(out), &v); code != 0 || err != nil || v["version"] == "" || v["go"] == "" {
		t.Errorf("version --json: exit code %d, %v, %q", code, err, out)
	}
}

// TestFlags holds mosquitto's habits.
func TestFlags(t *testing.T) {
	var host, text string
	var n int
	var retain, verbose bool
	var many []string
	parse := func(args ...string) ([]string, error) {
		host, text, n, retain, verbose, many = "", "", 0, false, false, nil
		f := cli.NewFlags()
		f.String(&host, "h,host", "HOST", "")
		f.String(&text, "m,message", "TEXT", "")
		f.Int(&n, "q,qos", "QOS", 0, 2, "")
		f.Bool(&retain, "r,retain", "")
		f.Bool(&verbose, "v", "")
		f.Multi("D", "A B", "", func(rest []string) (int, error) { many = rest[:2]; return 2, nil })
		return f.Parse(args)
	}
	rest, err := parse("-h", "broker", "-q1", "-rv", "-D", "x", "-y", "--message=a=b", "rest", "--", "-m")
	if err != nil || host != "broker" || n != 1 || !retain || !verbose || text != "a=b" || len(many) != 2 || many[1] != "-y" ||
		strings.Join(rest, " ") != "rest -m" {
		t.Errorf("host %q, qos %d, r %v, v %v, message %q, D %q, rest %q, %v", host, n, retain, verbose, text, many, rest, err)
	}
	for _, bad := range [][]string{{"-q", "3"}, {"-q"}, {"--retain=yes"}, {"-x"}, {"--mesage", "x"}} {
		if _, err := parse(bad...); cli.ExitCode(err) != cli.ExitUsage {
			t.Errorf("%q: %v, want a usage error", bad, err)
		}
	}
}
