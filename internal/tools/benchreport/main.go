// Command benchreport measures Fairlead side by side with other brokers, and what
// it takes to keep what it promises, and writes docs/performance.md. It is what
// `make bench` runs. What is measured stands in group.go and scale.go; the page
// has a part for each group, and only the parts that were measured are replaced.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	groups     []group
	benchDir   string
	fairlead   string // the binary to measure
	generator  string // the binary whose bench command makes the load
	work       string // binaries and results; ignored by git
	dir        string // where brokers keep their data
	out        string
	lock       string
	repeat     int
	pairs      int
	seconds    float64
	n          int            // of the group scale
	devices    int            // in the registry of policy-qos0
	rules      int            // in the policies of policy-qos0
	live       int            // connections of revoke
	only       *regexp.Regexp // of scenario names
	brokers    *regexp.Regexp // of broker names
	reportOnly bool
	asJSON     bool
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchreport:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var only, brokers, chosen string
	fs := flag.NewFlagSet("benchreport", flag.ContinueOnError)
	fs.StringVar(&chosen, "group", "core,durable,memory", "what to measure, separated by commas: "+strings.Join(groupNames(), ", "))
	fs.StringVar(&o.benchDir, "bench-dir", "../shared/bench", "directory that holds loadgen/, the load generator of the group core")
	fs.StringVar(&o.fairlead, "fairlead", "bin/fairlead", "the binary to measure")
	fs.StringVar(&o.generator, "generator", "", "the fairlead binary that makes the load of the other groups; default: that of -fairlead")
	fs.StringVar(&o.work, "work", "bench-results", "directory for binaries and results")
	fs.StringVar(&o.dir, "dir", os.TempDir(), "where brokers keep their data; on the disk that is to be measured")
	fs.StringVar(&o.out, "out", "docs/performance.md", "the page to write")
	fs.StringVar(&o.lock, "lock", filepath.Join(os.TempDir(), "fairlead-bench.lock"), "file whose lock keeps measurements on this machine apart")
	fs.IntVar(&o.repeat, "repeat", 5, "rounds of core, durable and security; the report has their median")
	fs.IntVar(&o.pairs, "pairs", 20, "rounds of memory, and of policy-qos0 in security")
	fs.Float64Var(&o.seconds, "dur", 0, "stop publishing after so many seconds; 0: the scenario's own")
	fs.IntVar(&o.n, "n", 1_000_000, "messages, sessions and retained messages of scale")
	fs.IntVar(&o.devices, "devices", 100_000, "devices in the registry of policy-qos0 in security")
	fs.IntVar(&o.rules, "rules", 1000, "rules in the policies of policy-qos0 in security")
	fs.IntVar(&o.live, "live", 20_000, "connections of revoke in security; as many as the limit of open files allows")
	fs.StringVar(&only, "only", "", "regular expression of scenario names")
	fs.StringVar(&brokers, "brokers", "", "regular expression of broker names, as in the report")
	fs.BoolVar(&o.reportOnly, "report", false, "write the page of the results that are there, measuring nothing")
	fs.BoolVar(&o.asJSON, "json", false, "print the results as well, one JSON object a line")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q: expected flags only", fs.Arg(0))
	}
	for name, n := range map[string]int{"-repeat": o.repeat, "-pairs": o.pairs, "-n": o.n, "-devices": o.devices, "-rules": o.rules, "-live": o.live} {
		if n < 1 {
			return o, fmt.Errorf("%s %d: expected at least 1", name, n)
		}
	}
	if o.generator == "" {
		o.generator = o.fairlead
	}
	var errs [4]error
	o.groups, errs[0] = chooseGroups(chosen)
	o.only, errs[1] = regexp.Compile(only)
	o.brokers, errs[2] = regexp.Compile(brokers)
	o.dir, errs[3] = filepath.Abs(o.dir)
	return o, errors.Join(errs[:]...)
}

// chooseGroups keeps the order of the page.
func chooseGroups(chosen string) ([]group, error) {
	names := strings.Split(chosen, ",")
	for _, name := range names {
		if !slices.Contains(groupNames(), name) {
			return nil, fmt.Errorf("-group %q: expected some of %s", name, strings.Join(groupNames(), ", "))
		}
	}
	var found []group
	for _, g := range groups() {
		if slices.Contains(names, g.name) {
			found = append(found, g)
		}
	}
	return found, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return err
	}
	for _, g := range o.groups {
		if !o.reportOnly {
			if done, err := g.measureInto(ctx, o); err != nil || !done {
				if err != nil {
					return fmt.Errorf("%s: %w", g.name, err)
				}
				continue
			}
		}
		if err := g.writePart(o); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return nil
}

func (g group) resultsFile(o options) string { return filepath.Join(o.work, g.name+".jsonl") }

// measureInto writes fresh results, replacing older ones. False: this group can't
// be measured here, which has been said.
func (g group) measureInto(ctx context.Context, o options) (done bool, err error) {
	log, copies := io.Writer(os.Stdout), io.Discard
	if o.asJSON {
		log, copies = os.Stderr, os.Stdout
	}
	b := &bench{options: o, group: g, log: log}
	defer func() { err = errors.Join(err, b.removeFleets()) }()
	if g.name == "core" {
		if b.loadgen, err = buildLoadgen(ctx, o); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(log, "no load generator in %s: the group core is not measured (set BENCH_DIR)\n", o.benchDir)
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("build the load generator: %w", err)
		}
	}
	var missing []string
	if b.brokers, missing, err = findPeers(ctx, o, g.peers); err != nil {
		return false, err
	}
	for _, m := range missing {
		fmt.Fprintln(log, "skipped:", m)
	}
	out, err := os.Create(g.resultsFile(o))
	if err != nil {
		return false, err
	}
	h := header{
		Group: g.name, Date: time.Now().UTC().Format(time.DateOnly), Machine: thisMachine(), Disk: fileSystem(o.dir),
		Missing: missing, Seconds: o.seconds, Micro: microBenchmarks(o, g),
		Devices: o.devices, Rules: o.rules,
	}
	for _, p := range b.brokers {
		h.Versions = append(h.Versions, p.version)
	}
	to := io.MultiWriter(out, copies)
	err = json.NewEncoder(to).Encode(h)
	if err == nil {
		err = b.measure(ctx, to)
	}
	return true, errors.Join(err, out.Close())
}

// buildLoadgen compiles the load generator of the group core.
func buildLoadgen(ctx context.Context, o options) (string, error) {
	sources := filepath.Join(o.benchDir, "loadgen")
	if _, err := os.Stat(sources); err != nil {
		return "", err
	}
	binary, err := filepath.Abs(filepath.Join(o.work, "loadgen"))
	if err != nil {
		return "", err
	}
	_, err = output(ctx, sources, "go", "build", "-buildvcs=false", "-o", binary, ".")
	return binary, err
}

// microBenchmarks are those beside the code, which belong to the group core.
func microBenchmarks(o options, g group) []string {
	if g.name != "core" {
		return nil
	}
	text, _ := os.ReadFile(filepath.Join(o.work, "micro.txt")) // there is none without `make benchmicro`
	return benchmarks(string(text))
}

// writePart renders the results and puts them into the page.
func (g group) writePart(o options) error {
	text, err := os.ReadFile(g.resultsFile(o))
	if err != nil {
		return err
	}
	p, err := readReport(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%s: %w", g.resultsFile(o), err)
	}
	var part bytes.Buffer
	if err := p.write(&part, g); err != nil {
		return err
	}
	old, err := os.ReadFile(o.out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parts, err := splitPage(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", o.out, err)
	}
	parts[g.name] = part.String()
	return os.WriteFile(o.out, []byte(joinPage(parts)), 0o644)
}
