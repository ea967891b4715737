package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The exit codes of the harness.
const (
	exitClean    = 0
	exitViolated = 1
	exitFailed   = 2 // it could not run
)

// The test binary is the harness too: with --time, --rounds or --judge it runs
// rounds, or judges a history, and no tests.
var (
	timeFlag     = flag.Duration("time", 0, "begin rounds until this time has passed")
	rounds       = flag.Int("rounds", 0, "play so many rounds")
	seed         = flag.Uint64("seed", 0, "seed of the first round; each next round has the next; 0: taken from the clock")
	kills        = flag.Int("kills", -1, "kills a round; -1: each scenario's own")
	binary       = flag.String("binary", "", "the fairlead command to kill; built from the sources if not given")
	serveFlags   = flag.String("flags", "", "more flags for fairlead serve, separated by spaces")
	drain        = flag.Duration("drain", drainDefault, "how long nothing may happen at the end of a round while something is owed")
	minimiseTime = flag.Duration("minimise", 3*time.Minute, "time for minimising the first failure; 0: don't")
	keep         = flag.Bool("keep", false, "leave the data directory and the broker's log")
	planted      = flag.String("plant", "", "test the harness: \"amnesia\" deletes the data before each start, \"pretend\" kills connections only")
	asJSON       = flag.Bool("json", false, "print the totals as JSON")
	judgeFile    = flag.String("judge", "", "judge the history in this file again")
)

func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case *judgeFile != "":
		os.Exit(judgeAgain(*judgeFile))
	case *timeFlag > 0 || *rounds > 0:
		os.Exit(harness())
	}
	os.Exit(tests(m))
}

// builtDir is where the tests build the command under test.
var builtDir string

func tests(m *testing.M) int {
	var err error
	if builtDir, err = os.MkdirTemp("", "fairlead-crash-"); err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return exitFailed
	}
	defer os.RemoveAll(builtDir)
	return m.Run()
}

func harness() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, err := repository()
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return exitFailed
	}
	o := options{
		binary: *binary, flags: strings.Fields(*serveFlags), time: *timeFlag, rounds: *rounds, seed: *seed, kills: *kills,
		drain: *drain, minimise: *minimiseTime, keep: *keep, plant: plant(*planted),
		failures: filepath.Join(root, "test", "crash", "failures"), progress: os.Stderr,
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().Unix())
	}
	fmt.Fprintln(os.Stderr, "seed", o.seed)
	t, err := run(ctx, o)
	if t != nil {
		err = errors.Join(err, printTotals(t))
	}
	switch {
	case t != nil && t.Violations > 0:
		return exitViolated
	case err != nil:
		fmt.Fprintln(os.Stderr, "crash:", err)
		return exitFailed
	}
	return exitClean
}

func printTotals(t *totals) error {
	if !*asJSON {
		_, err := fmt.Print(t.text())
		return err
	}
	b, err := t.json()
	fmt.Println(string(b))
	return err
}

func judgeAgain(name string) int {
	text, err := os.ReadFile(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return exitFailed
	}
	h, err := parseHistory(string(text))
	if err != nil {
		fmt.Fprintf(os.Stderr, "crash: %s: %v\n", name, err)
		return exitFailed
	}
	m := judge(h)
	for _, v := range m.violations {
		fmt.Println(v)
		for _, at := range v.marks {
			fmt.Printf("    %d: %s\n", at, m.event(at))
		}
	}
	if len(m.violations) > 0 {
		return exitViolated
	}
	return exitClean
}
