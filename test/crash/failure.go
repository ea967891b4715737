package crash

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// detailsMax is how many violations are told with their events.
const detailsMax = 40

// writeFailure writes what a round has shown: verdict, scenario, history. It
// returns the file's name. All but the history are comments, so that the file
// can be judged again.
func writeFailure(dir string, res *result, reduced string) (name string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	name = filepath.Join(dir, fmt.Sprintf("%d.txt", res.scenario.Seed))
	if reduced != "" {
		name = filepath.Join(dir, fmt.Sprintf("%d-min.txt", res.scenario.Seed))
	}
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriter(f)
	comment := func(format string, args ...any) {
		for line := range strings.Lines(fmt.Sprintf(format, args...)) {
			fmt.Fprintf(w, "# %s\n", strings.TrimRight(line, "\n"))
		}
	}
	comment("seed %d: %d violations\n%s", res.scenario.Seed, len(res.model.violations), reduced)
	comment("again: make crash SEED=%d CRASH_ARGS='--rounds 1'\n\n", res.scenario.Seed)
	for i, v := range res.model.violations {
		comment("%v", v)
		if i >= detailsMax {
			continue
		}
		for _, at := range v.marks {
			comment("    %d: %s", at, res.model.event(at).String())
		}
	}
	comment("\nscenario\n%v\nwhat the broker wrote last\n%s\nhistory", res.scenario, res.log)
	for i := range res.events {
		fmt.Fprintln(w, res.events[i].String())
	}
	return name, w.Flush()
}
