package crash

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// failuresHere is where histories of the real broker's failures are kept.
const failuresHere = "failures"

// short plays a round and returns the sums and what was reported. Rounds mostly
// wait: several can be played at a time.
func short(t *testing.T, o options) (*totals, string) {
	t.Helper()
	var err error
	if o.binary = *binary; o.binary == "" {
		o.binary, err = built()
	}
	if err != nil {
		t.Fatal(err)
	}
	var progress strings.Builder
	o.rounds, o.progress = 1, &progress
	got, err := run(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if got.Published < 500 || got.Delivered < 500 {
		t.Errorf("%d messages published, %d delivered: too few to show anything", got.Published, got.Delivered)
	}
	if got.Refused > 0 {
		t.Errorf("%d messages were refused, and nothing was full", got.Refused)
	}
	return got, progress.String()
}

// built builds the command under test once.
var built = sync.OnceValues(func() (string, error) {
	return build(context.Background(), builtDir)
})

// TestWithoutKills shows what the promises are worth while nothing happens.
func TestWithoutKills(t *testing.T) {
	t.Parallel()
	if got, report := short(t, options{seed: 1, kills: 0, drain: drainDefault, failures: t.TempDir()}); got.Violations > 0 {
		t.Error(report)
	}
}

// TestKills is the harness's purpose, in short; `make crash` runs it at length.
func TestKills(t *testing.T) {
	t.Parallel()
	if got, report := short(t, options{seed: 1002, kills: 5, drain: drainDefault, failures: failuresHere}); got.Violations > 0 {
		t.Error(report)
	}
}

// TestPretendedKills shows that the harness accuses nobody of what a crash may
// do: the broker forgets nothing, and only the connections die.
func TestPretendedKills(t *testing.T) {
	t.Parallel()
	if got, report := short(t, options{seed: 3, kills: 6, drain: drainDefault, failures: t.TempDir(), plant: plantPretend}); got.Violations > 0 || got.Kills != 6 {
		t.Errorf("%d kills\n%s", got.Kills, report)
	}
}

// TestAmnesia shows that the harness sees a broker that forgets, and writes down
// what it saw so that the same verdict follows from it.
func TestAmnesia(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got, report := short(t, options{seed: 4, kills: 2, drain: 2 * time.Second, failures: dir, plant: plantAmnesia})
	if got.Lost == 0 || got.Kills != 2 || !slices.Equal(got.Failed, []uint64{4}) {
		t.Errorf("%d lost in %d kills, failed seeds %v:\n%s", got.Lost, got.Kills, got.Failed, report)
	}
	text, err := os.ReadFile(filepath.Join(dir, "4.txt"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := parseHistory(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if again := judge(h).totals.Violations; again != got.Violations {
		t.Errorf("the history that was written has %d violations, the round had %d", again, got.Violations)
	}
}
