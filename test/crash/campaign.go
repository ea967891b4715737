package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// options are what the command can be told.
type options struct {
	binary   string        // empty: built from the sources
	flags    []string      // more flags for serve
	time     time.Duration // rounds begin until it has passed; 0: rounds counts alone
	rounds   int           // 0: time counts alone
	seed     uint64        // of the first round; each next one has the next
	kills    int           // a round; below 0: each scenario's own
	drain    time.Duration // how long nothing may happen at the end of a round while something is owed
	minimise time.Duration // for the first failure; 0: not at all
	keep     bool          // leave the directory
	plant    plant         // what the harness itself is tested with; empty: nothing
	failures string        // directory for histories
	progress io.Writer
}

// drainDefault is generous: longer than all waiting that a client is promised.
const drainDefault = 20 * time.Second

// totals are the sums of a run.
type totals struct {
	Rounds       int           `json:"rounds"`
	Kills        int           `json:"kills"`
	Published    int           `json:"published"`    // messages
	Acknowledged int           `json:"acknowledged"` // PUBACK, or PUBREC
	Refused      int           `json:"refused"`
	Delivered    int           `json:"delivered"` // to all sessions, with repetitions
	Repeated     int           `json:"repeated"`  // QoS 1, which may be
	Retained     int           `json:"retained"`  // retained messages read
	Wills        int           `json:"wills"`     // received
	Sessions     int           `json:"sessions"`
	Resumed      int           `json:"resumed"` // Session Present
	Lost         int           `json:"lost"`
	Doubled      int           `json:"doubled"`
	OutOfOrder   int           `json:"out_of_order"`
	Violations   int           `json:"violations"` // of all kinds, those above among them
	RestartP50   time.Duration `json:"restart_p50_ns"`
	RestartMax   time.Duration `json:"restart_max_ns"`
	Seconds      float64       `json:"seconds"`
	Failed       []uint64      `json:"failed_seeds,omitempty"`
}

func (t *totals) add(o *totals) {
	t.Rounds++
	for _, p := range []struct{ to, from *int }{
		{&t.Kills, &o.Kills}, {&t.Published, &o.Published}, {&t.Acknowledged, &o.Acknowledged}, {&t.Refused, &o.Refused},
		{&t.Delivered, &o.Delivered}, {&t.Repeated, &o.Repeated}, {&t.Retained, &o.Retained}, {&t.Wills, &o.Wills},
		{&t.Sessions, &o.Sessions}, {&t.Resumed, &o.Resumed},
		{&t.Lost, &o.Lost}, {&t.Doubled, &o.Doubled}, {&t.OutOfOrder, &o.OutOfOrder}, {&t.Violations, &o.Violations},
	} {
		*p.to += *p.from
	}
}

// line is the progress so far.
func (t *totals) line() string {
	return fmt.Sprintf("%6.1fs  rounds %d  kills %d  published %d  acked %d  delivered %d  violations %d",
		t.Seconds, t.Rounds, t.Kills, t.Published, t.Acknowledged, t.Delivered, t.Violations)
}

// text is the end of a run.
func (t *totals) text() string {
	return fmt.Sprintf(`rounds        %d in %.0f s
kills         %d
messages      %d published, %d acknowledged, %d refused
deliveries    %d, %d of them repeated at QoS 1
retained      %d read
wills         %d received
sessions      %d begun, %d times resumed
lost          %d
doubled       %d
out of order  %d
violations    %d in all, in rounds of the seeds %v
restart       p50 %s, max %s from the start of the process to the first CONNACK
`, t.Rounds, t.Seconds, t.Kills, t.Published, t.Acknowledged, t.Refused, t.Delivered, t.Repeated, t.Retained, t.Wills, t.Sessions, t.Resumed,
		t.Lost, t.Doubled, t.OutOfOrder, t.Violations, t.Failed,
		t.RestartP50.Round(100*time.Microsecond), t.RestartMax.Round(100*time.Microsecond))
}

func (t *totals) json() ([]byte, error) { return json.MarshalIndent(t, "", "  ") }

// campaign runs round after round against one broker on one directory.
type campaign struct {
	options
	dir      string
	restarts []time.Duration
	totals   totals
	failed   *result // the first
}

// run runs rounds until time or rounds are used up. The error says why it could
// not go on; violations are in the totals.
func run(ctx context.Context, o options) (t *totals, err error) {
	dir, err := os.MkdirTemp("", "fairlead-crash-")
	if err != nil {
		return nil, err
	}
	c := &campaign{options: o, dir: dir}
	if o.keep {
		fmt.Fprintln(o.progress, "data and log in", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if c.binary == "" {
		c.binary, err = build(ctx, dir)
	} else {
		_, err = os.Stat(c.binary)
	}
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	err = c.rounds(ctx, begin)
	c.totals.Seconds = time.Since(begin).Seconds()
	slices.Sort(c.restarts)
	if n := len(c.restarts); n > 0 {
		c.totals.RestartP50, c.totals.RestartMax = c.restarts[n/2], c.restarts[n-1]
	}
	if err == nil && c.failed != nil && c.minimise > 0 {
		err = c.minimiseFirst(ctx)
	}
	return &c.totals, err
}

// rounds plays the rounds of the campaign.
func (c *campaign) rounds(ctx context.Context, begin time.Time) (err error) {
	p, err := newProcess(c.binary, c.dir, c.flags, c.plant)
	if err != nil {
		return err
	}
	defer func() {
		if p.cmd != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for seed := c.seed; ; seed++ {
		n := c.totals.Rounds
		if c.options.rounds > 0 && n >= c.options.rounds || c.time > 0 && time.Since(begin) >= c.time {
			return nil
		}
		r := &round{scenario: newScenario(seed, c.kills), process: p, drain: c.drain}
		res, err := r.play(ctx)
		if err != nil {
			return err
		}
		c.restarts = append(c.restarts, res.restarts...)
		c.totals.add(&res.model.totals)
		c.totals.Seconds = time.Since(begin).Seconds()
		fmt.Fprintln(c.progress, c.totals.line())
		if len(res.model.violations) == 0 {
			continue
		}
		if err := c.fail(res); err != nil {
			return err
		}
		if died(res) {
			return nil // there is nothing left to kill
		}
	}
}

func died(res *result) bool {
	return slices.ContainsFunc(res.model.violations, func(v violation) bool { return v.fault == faultDied })
}

// fail reports a round with violations and writes its history down.
func (c *campaign) fail(res *result) error {
	c.totals.Failed = append(c.totals.Failed, res.scenario.Seed)
	if c.failed == nil {
		c.failed = res
	}
	name, err := writeFailure(c.failures, res, "")
	if err != nil {
		return err
	}
	const shown = 5
	for i, v := range res.model.violations {
		if i == shown {
			fmt.Fprintf(c.progress, "  … and %d more\n", len(res.model.violations)-shown)
			break
		}
		fmt.Fprintln(c.progress, " ", v)
	}
	fmt.Fprintln(c.progress, "  history:", name)
	return nil
}

// build compiles the command into dir.
func build(ctx context.Context, dir string) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "fairlead")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "./cmd/fairlead")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cmd/fairlead: %w\n%s", err, out)
	}
	return binary, nil
}

// repository finds the root of the sources above the current directory.
func repository() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := at; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above %s", at)
		}
	}
}
