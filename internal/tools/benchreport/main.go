// Command benchreport measures Fairlead side by side with Debian's Mosquitto and
// mochi-mqtt and writes docs/performance.md. It is what `make bench` runs; the
// scenarios are in scenario.go. The load generator is not part of this
// repository: -bench-dir says where it is.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	benchDir   string
	fairlead   string
	work       string // binaries and results; ignored by git
	out        string
	lock       string
	repeat     int
	seconds    float64
	only       *regexp.Regexp // of scenario names
	brokers    *regexp.Regexp // of broker names
	reportOnly bool
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
	var only, brokers string
	fs := flag.NewFlagSet("benchreport", flag.ContinueOnError)
	fs.StringVar(&o.benchDir, "bench-dir", "../shared/bench", "directory that holds loadgen/")
	fs.StringVar(&o.fairlead, "fairlead", "bin/fairlead", "the binary to measure")
	fs.StringVar(&o.work, "work", "bench-results", "directory for binaries and results")
	fs.StringVar(&o.out, "out", "docs/performance.md", "the report to write")
	fs.StringVar(&o.lock, "lock", filepath.Join(os.TempDir(), "fairlead-bench.lock"), "file whose lock keeps measurements on this machine apart")
	fs.IntVar(&o.repeat, "repeat", 5, "rounds; the report has their median")
	fs.Float64Var(&o.seconds, "dur", 0, "stop publishing after so many seconds; 0: the scenario's own")
	fs.StringVar(&only, "only", "", "regular expression of scenario names")
	fs.StringVar(&brokers, "brokers", "", "regular expression of broker names: mosquitto, mochi, fairlead")
	fs.BoolVar(&o.reportOnly, "report", false, "write the report of the results that are there, measuring nothing")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.repeat < 1 {
		return o, fmt.Errorf("-repeat %d: expected at least 1", o.repeat)
	}
	var errs [2]error
	o.only, errs[0] = regexp.Compile(only)
	o.brokers, errs[1] = regexp.Compile(brokers)
	return o, errors.Join(errs[:]...)
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.benchDir, "loadgen")); errors.Is(err, fs.ErrNotExist) && !o.reportOnly {
		fmt.Printf("no load generator in %s: the brokers are not compared and %s stays as it is (set BENCH_DIR)\n", o.benchDir, o.out)
		return nil
	}
	brokers, err := peers(ctx, o)
	if err != nil {
		return err
	}
	results := filepath.Join(o.work, "results.jsonl")
	if !o.reportOnly {
		if err := measure(ctx, o, brokers, results); err != nil {
			return err
		}
	}
	return writeReport(o, brokers, results)
}

// measure writes fresh results, replacing older ones.
func measure(ctx context.Context, o options, brokers []broker, results string) error {
	loadgen, err := filepath.Abs(filepath.Join(o.work, "loadgen"))
	if err != nil {
		return err
	}
	if _, err := output(ctx, filepath.Join(o.benchDir, "loadgen"), "go", "build", "-buildvcs=false", "-o", loadgen, "."); err != nil {
		return fmt.Errorf("build the load generator: %w", err)
	}
	out, err := os.Create(results)
	if err != nil {
		return err
	}
	b := &bench{options: o, loadgen: loadgen, brokers: brokers, log: os.Stdout}
	return errors.Join(b.measure(ctx, out), out.Close())
}

func writeReport(o options, brokers []broker, results string) error {
	text, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	p := &report{date: time.Now().UTC().Format(time.DateOnly), machine: thisMachine(), seconds: o.seconds}
	if p.results, err = readResults(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("%s: %w", results, err)
	}
	micro, _ := os.ReadFile(filepath.Join(o.work, "micro.txt")) // there is none without `make benchmicro`
	p.micro = benchmarks(string(micro))
	for _, b := range brokers {
		p.versions = append(p.versions, b.version)
	}
	var page bytes.Buffer
	if err := p.write(&page); err != nil {
		return err
	}
	return os.WriteFile(o.out, page.Bytes(), 0o644)
}
