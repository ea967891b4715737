package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"fairlead/cli"
	"fairlead/cli/root"
)

// These variables make this test binary something else: a broker that only listens on
// the ports that its arguments name, or the fairlead command.
const (
	pretendVariable  = "BENCHREPORT_PRETEND"
	fairleadVariable = "BENCHREPORT_FAIRLEAD"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(pretendVariable) != "":
		pretendToServe(os.Args[1:])
	case os.Getenv(fairleadVariable) != "":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(cli.Main(ctx, cli.OS(), root.Command, os.Args[1:]))
	default:
		os.Exit(m.Run())
	}
}

func pretendToServe(ports []string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	for _, port := range ports {
		if _, err := net.Listen("tcp", "127.0.0.1:"+port); err != nil {
			os.Exit(1)
		}
	}
	<-end
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// pretend is a broker that only listens.
func pretend(t *testing.T, name string) broker {
	t.Helper()
	binary := self(t)
	return broker{name: name, command: func(l layout) []string { return []string{binary, l.port, l.tlsPort} }}
}

// generator writes a load generator that prints line, and its arguments to a
// file of their own.
func generator(t *testing.T, line string) (path, calls string) {
	t.Helper()
	dir := t.TempDir()
	path, calls = filepath.Join(dir, "loadgen"), filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho \"$@\" >>" + calls + "\necho '" + line + "'\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, calls
}

// groupOf is the group with the name.
func groupOf(t *testing.T, name string) group {
	t.Helper()
	found, err := chooseGroups(name)
	if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// order plays a group with brokers that only listen, and says who had a turn when.
func order(t *testing.T, b *bench) string {
	t.Helper()
	t.Setenv(pretendVariable, "1")
	b.dir, b.lock, b.log = t.TempDir(), filepath.Join(t.TempDir(), "lock"), io.Discard
	out := bytes.NewBufferString("{}\n")
	if err := b.measure(context.Background(), out); err != nil {
		t.Fatal(err)
	}
	p, err := readReport(out)
	if err != nil {
		t.Fatal(err)
	}
	var turns []string
	for _, r := range p.results {
		turns = append(turns, r.text("run")+" "+r.text("label")+r.text("note"))
	}
	return strings.Join(turns, ", ")
}

func TestBrokersTakeTurns(t *testing.T) {
	loadgen, calls := generator(t, `{"rate":5}`)
	got := order(t, &bench{
		options: options{repeat: 2, seconds: 1.5, only: regexp.MustCompile("^connect")}, group: groupOf(t, "core"),
		loadgen: loadgen, brokers: []broker{pretend(t, "a"), pretend(t, "b")},
	})
	want := "connect a, connect b, connect-tls a, connect-tls b, connect a, connect b, connect-tls a, connect-tls b"
	if got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if first := firstLine(readFile(t, calls)); !regexp.MustCompile(`^connect -addr 127\.0\.0\.1:\d+ -pid \d+ -label a -dur 1\.5$`).MatchString(first) {
		t.Errorf("the generator was called with %q", first)
	}
}

// TestPairsSwing: what drifts in the course of the minutes meets both alike.
func TestPairsSwing(t *testing.T) {
	generator, calls := generator(t, `{"rate":5,"broker":{"cpu_us_per_message":2}}`)
	got := order(t, &bench{
		options: options{pairs: 2, only: regexp.MustCompile("qos1"), generator: generator}, group: groupOf(t, "memory"),
		brokers: []broker{pretend(t, "a"), pretend(t, "b")},
	})
	if want := "pairs-qos1 a, pairs-qos1 b, pairs-qos1 b, pairs-qos1 a"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	want := regexp.MustCompile(`^bench pairs -q 1 --json -V 311 -h 127\.0\.0\.1 -p \d+ --pid \d+ --duration 2$`)
	if first := firstLine(readFile(t, calls)); !want.MatchString(first) {
		t.Errorf("the generator was called with %q", first)
	}
}

// TestTheDiskTakesItsTurn: in one scenario, without a generator.
func TestTheDiskTakesItsTurn(t *testing.T) {
	generator, _ := generator(t, `{"rate":5}`)
	got := order(t, &bench{
		options: options{repeat: 1, seconds: 0.001, only: regexp.MustCompile("ack|offline"), generator: generator}, group: groupOf(t, "durable"),
		brokers: []broker{pretend(t, "a"), {name: "disk", probe: diskAlone(false).probe}},
	})
	if want := "ack a, ack disk, offline a"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

func TestWhatBreaksIsNoted(t *testing.T) {
	t.Setenv(pretendVariable, "1")
	loadgen, _ := generator(t, "no JSON")
	b := &bench{options: options{dir: t.TempDir()}, group: groupOf(t, "core"), loadgen: loadgen}
	if note := b.one(context.Background(), coreScenarios[0], pretend(t, "a")).text("note"); !strings.Contains(note, "no JSON") {
		t.Errorf("note %q, want what the generator said", note)
	}
	broken := broker{name: "broken", command: func(layout) []string { return []string{"sh", "-c", "echo out of luck; exit 3"} }}
	if note := b.one(context.Background(), coreScenarios[0], broken).text("note"); !strings.Contains(note, "out of luck") {
		t.Errorf("note %q, want what the broker said", note)
	}
	left, err := os.ReadDir(b.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWithoutTheGeneratorNothingIsMeasured(t *testing.T) {
	out := filepath.Join(t.TempDir(), "performance.md")
	if err := run(context.Background(), []string{"-group", "core", "-bench-dir", t.TempDir(), "-work", t.TempDir(), "-out", out}); err != nil {
		t.Errorf("run without a generator: %v", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a report was written: %v", err)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{"-repeat", "0"}, {"-pairs", "0"}, {"-n", "0"}, {"-only", "("}, {"-brokers", "("}, {"-group", "all"}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) gave no error", args)
		}
	}
}

// TestPeersThatCannotBeHad are skipped with a word, but not Fairlead.
func TestPeersThatCannotBeHad(t *testing.T) {
	here := func(context.Context, options) (broker, error) { return broker{version: "1"}, nil }
	gone := func(context.Context, options) (broker, error) { return broker{}, os.ErrNotExist }
	o := options{brokers: regexp.MustCompile("")}
	found, missing, err := findPeers(context.Background(), o, []peer{{"a", gone}, {"b", here}})
	if err != nil || len(found) != 1 || found[0].name != "b" || strings.Join(missing, "") != "a: file does not exist" {
		t.Errorf("found %v, missing %q, %v", found, missing, err)
	}
	o.fairlead = filepath.Join(t.TempDir(), "fairlead")
	if _, _, err := findPeers(context.Background(), o, []peer{{"fairlead", fairlead}, {"b", here}}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without Fairlead: %v, want a word on how to build it", err)
	}
	o.brokers = regexp.MustCompile("nobody")
	if _, _, err := findPeers(context.Background(), o, []peer{{"b", here}}); err == nil {
		t.Error("a run of no brokers gave no error")
	}
}

func TestFlatten(t *testing.T) {
	r := result{}
	flatten(r, "", map[string]any{"a": 1.0, "b": map[string]any{"c": 2.0, "d": map[string]any{"e": "x"}}})
	if r.number("a") != 1 || r.number("b.c") != 2 || r.text("b.d.e") != "x" || len(r) != 3 {
		t.Errorf("flatten = %v", r)
	}
}

// smallRun measures one group with Fairlead alone, from the command line to the page.
func smallRun(t *testing.T, args ...string) (page string) {
	t.Helper()
	t.Setenv(fairleadVariable, "1")
	dir := t.TempDir()
	out := filepath.Join(dir, "performance.md")
	args = append([]string{"-fairlead", self(t), "-work", dir, "-dir", dir, "-out", out, "-lock", filepath.Join(dir, "lock")}, args...)
	if err := run(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	return readFile(t, out)
}

// TestDurableSmall has too little time for figures that mean something, but all of
// them must be there, and nothing lost.
func TestDurableSmall(t *testing.T) {
	page := smallRun(t, "-group", "durable", "-repeat", "1", "-dur", "0.2", "-brokers", "^fairlead|^fdatasync")
	if strings.Count(page, "| – |") != 1 { // the comparison with Mosquitto, which is not there
		t.Errorf("the page lacks figures:\n%s", page)
	}
	wantLines(t, page, "| lost, in all scenarios and rounds | ≤ 0 | 0 | yes |")
	for _, row := range []string{"| `pairs-qos1` | fairlead | 1 |", "| `pairs-qos1-1k` | fairlead | 1 |", "| `pairs-qos2` | fairlead | 1 |", "\n| fdatasync | ", "\n| fdatasync-ahead | ", "| fairlead | 1 | "} {
		if !strings.Contains(page, row) {
			t.Errorf("the page has no %q:\n%s", row, page)
		}
	}
}

func TestMemorySmall(t *testing.T) {
	page := smallRun(t, "-group", "memory", "-pairs", "1", "-dur", "0.3")
	if !strings.Contains(page, "| `fairlead bench pairs -q 0` |") || !strings.Contains(page, "| `fairlead bench pairs -q 1` |") {
		t.Errorf("the page lacks the pairs:\n%s", page)
	}
}
