package pebble

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// engineWork uses all of an engine at once, and knows what has returned.
type engineWork struct {
	mu      sync.Mutex
	appends int            // records 1 to appends have returned
	puts    map[string]int // key → the last round that returned
	batches int            // rounds of batches that have returned
}

func (w *engineWork) snapshot() *engineWork {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &engineWork{appends: w.appends, puts: make(map[string]int), batches: w.batches}
	for key, round := range w.puts {
		s.puts[key] = round
	}
	return s
}

func newEngineWork() *engineWork { return &engineWork{puts: make(map[string]int)} }

const batchKeys = 5

// round makes one change of each kind, and ends at the first error.
func (w *engineWork) round(e *Engine, i int) error {
	ctx := context.Background()
	at, err := e.Journal().Append(ctx, payload(w.appends+1))
	if err != nil {
		return err
	}
	if int(at) != w.appends+1 {
		return fmt.Errorf("record %d after %d", at, w.appends)
	}
	w.mu.Lock()
	w.appends++
	w.mu.Unlock()
	key := fmt.Sprintf("p/%d", i%7)
	if _, err := e.KV().Put(ctx, key, putValue(i), store.PutOptions{}); err != nil {
		return err
	}
	w.mu.Lock()
	w.puts[key] = i
	w.mu.Unlock()
	ops := []store.Op{{Key: "b/", Delete: true, DeleteTo: "b0"}}
	for n := range batchKeys {
		ops = append(ops, store.Op{Key: fmt.Sprintf("b/%d/%d", i, n), Value: putValue(i)})
	}
	if err := e.KV().Batch(ctx, ops); err != nil {
		return err
	}
	w.mu.Lock()
	w.batches = i
	w.mu.Unlock()
	return nil
}

func putValue(i int) []byte { return fmt.Appendf(nil, "%d %s", i, make([]byte, 500+i*997%6000)) }

func roundOf(value []byte) int {
	n, _ := strconv.Atoi(string(value[:max(bytes.IndexByte(value, ' '), 0)]))
	return n
}

// verify looks at what a crash has left: all that returned, and at most what was
// under way on top.
func (w *engineWork) verify(e *Engine) error {
	ctx := context.Background()
	first, next, err := e.Journal().Span(ctx, Own)
	if err != nil {
		return err
	}
	if int(next)-1 < w.appends || int(next)-1 > w.appends+1 {
		return fmt.Errorf("the journal ends with %d, and %d had returned", next-1, w.appends)
	}
	if first < next {
		for rec, err := range e.Journal().Tail(ctx, Own, first) {
			if err != nil {
				return err
			}
			if !bytes.Equal(rec.Data, payload(int(rec.Pos))) {
				return fmt.Errorf("record %d is %.20q", rec.Pos, rec.Data)
			}
			if rec.Pos+1 == next {
				break
			}
		}
	}
	for key, round := range w.puts {
		got, err := e.KV().Get(ctx, key)
		if err != nil {
			return fmt.Errorf("put in round %d: %w", round, err)
		}
		if n := roundOf(got.Value); n < round {
			return fmt.Errorf("%s is of round %d, and %d had returned", key, n, round)
		}
	}
	list, err := e.KV().List(ctx, "b/", "", 1000)
	if err != nil {
		return err
	}
	if len(list) != batchKeys && (len(list) != 0 || w.batches != 0) {
		return fmt.Errorf("%d keys of batches, expected %d: a batch is all or nothing", len(list), batchKeys)
	}
	for _, entry := range list {
		if n := roundOf(entry.Value); n < w.batches || n != roundOf(list[0].Value) {
			return fmt.Errorf("%s is of round %d, and %d had returned", entry.Key, n, w.batches)
		}
	}
	return nil
}

// TestEngineSurvivesPowerLoss takes the power away after changes of the disk, with
// none, some and all of what was not synced on it.
func TestEngineSurvivesPowerLoss(t *testing.T) {
	mem := vfs.NewCrashableMem()
	w := newEngineWork()
	rng := rand.New(rand.NewPCG(3, 3))
	var mu sync.Mutex // Pebble works in the background
	var clones []func()
	seen := 0
	every := 20
	if testing.Short() {
		every = 60
	}
	fs := &faultFS{FS: mem, after: func(op fault) {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen > 60 && seen%every != 0 {
			return // all of Open, and a part of the rest
		}
		crash := w.snapshot()
		percent := []int{0, 50, 100}[len(clones)%3]
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		clones = append(clones, func() {
			e, err := Open("data", Options{FS: clone, SegmentBytes: segmentTest})
			if err != nil {
				t.Fatalf("power lost after %v, %d%% of unsynced: open: %v", op, percent, err)
			}
			defer e.Close()
			if err := crash.verify(e); err != nil {
				t.Fatalf("power lost after %v, %d%% of unsynced: %v", op, percent, err)
			}
		})
	}}
	e, err := Open("data", Options{FS: fs, SegmentBytes: segmentTest})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 120; i++ {
		if err := w.round(e, i); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			if err := e.Journal().Trim(t.Context(), Own, store.Pos(w.appends-3)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d crashes of %d changes", len(clones), seen)
	for _, verify := range clones {
		verify()
	}
}

const childDir = "FAIRLEAD_TEST_CHILD_DIR"

// TestMain also is the process that TestKill kills: it works in a directory and
// says what has returned.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := child(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(dir string) error {
	e, err := Open(dir, Options{SegmentBytes: 1 << 20})
	if err != nil {
		return err
	}
	w := newEngineWork()
	_, next, err := e.Journal().Span(context.Background(), Own)
	if err != nil {
		return err
	}
	w.appends = int(next) - 1
	for i := w.appends + 1; ; i++ {
		if err := w.round(e, i); err != nil {
			return err
		}
		fmt.Println(w.appends, i)
		if i%50 == 0 {
			if err := e.Journal().Trim(context.Background(), Own, store.Pos(w.appends-10)); err != nil {
				return err
			}
		}
	}
}

// TestKill kills a process that works, again and again in the same directory.
func TestKill(t *testing.T) {
	kills := 8
	if testing.Short() {
		kills = 2
	}
	dir := t.TempDir()
	const seed = 20261125
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newEngineWork()
	for n := range kills {
		w.appends = 0
		killed(t, dir, 1+rng.IntN(150), time.Duration(rng.IntN(1000))*time.Microsecond, w)
		e, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("seed %d, kill %d: open: %v", seed, n, err)
		}
		if err := w.verifyKilled(e); err != nil {
			t.Fatalf("seed %d, kill %d: %v", seed, n, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d records", kills, w.appends)
}

// verifyKilled verifies, and allows for what the child did after it was last heard.
func (w *engineWork) verifyKilled(e *Engine) error {
	_, next, err := e.Journal().Span(context.Background(), Own)
	if err != nil {
		return err
	}
	if int(next)-1 < w.appends {
		return fmt.Errorf("the journal ends with %d, and %d had returned", next-1, w.appends)
	}
	w.appends = int(next) - 1
	return w.verify(e)
}

// killed runs a child, hears of that many rounds, and kills it after a while.
func killed(t *testing.T, dir string, rounds int, after time.Duration, w *engineWork) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	hear := func() bool {
		if !lines.Scan() {
			return false
		}
		var at, round int
		if _, err := fmt.Sscan(lines.Text(), &at, &round); err != nil {
			t.Errorf("the child says %q: %v", lines.Text(), err)
		}
		w.appends, w.batches = at, round
		w.puts[fmt.Sprintf("p/%d", round%7)] = round
		return true
	}
	for range rounds {
		if !hear() {
			break
		}
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	for hear() {
		// what was said before the kill counts
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v before it was killed: %s", err, stderr.String())
	}
}

// TestFullDisk fills a small disk: what is refused says so, nothing acknowledged is
// harmed, and service resumes when there is room.
func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	usage := vfs.DiskUsage{TotalBytes: 100 << 20, AvailBytes: 50 << 20, UsedBytes: 50 << 20}
	mem.TestingSetDiskUsage(usage)
	e, err := Open("data", Options{FS: mem, SegmentBytes: segmentTest})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	w := newEngineWork()
	for i := 1; i <= 30; i++ {
		if err := w.round(e, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Journal().Trim(t.Context(), Own, 25); err != nil {
		t.Fatal(err)
	}
	usage.AvailBytes = 4 << 20 // the reserve is a twentieth
	mem.TestingSetDiskUsage(usage)
	e.space.refresh()
	if len(e.journal.spares) == 0 {
		t.Fatal("no spare segments after a trim")
	}
	for range 3 {
		if _, err := e.Journal().Append(t.Context(), payload(1)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Append on a full disk: %v, expected ENOSPC", err)
		}
		if _, err := e.KV().Put(t.Context(), "p/0", nil, store.PutOptions{}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Put on a full disk: %v, expected ENOSPC", err)
		}
	}
	if len(e.journal.spares) != 0 {
		t.Fatal("a full disk, and spare segments are kept")
	}
	if s := e.Stats(); !errors.Is(s.Err, syscall.ENOSPC) || s.FreeBytes != 4<<20 {
		t.Fatalf("Stats on a full disk: %v, %d bytes free", s.Err, s.FreeBytes)
	}
	if err := e.KV().Batch(t.Context(), []store.Op{{Key: "c/", Delete: true, DeleteTo: "c0"}}); err != nil {
		t.Fatalf("deleting on a full disk: %v", err)
	}
	if err := e.Journal().Trim(t.Context(), Own, 28); err != nil {
		t.Fatalf("Trim on a full disk: %v", err)
	}
	if err := w.verify(e); err != nil {
		t.Fatal(err)
	}
	usage.AvailBytes = 50 << 20
	mem.TestingSetDiskUsage(usage)
	if err := w.round(e, 31); err != nil {
		t.Fatalf("when there is room again: %v", err)
	}
	if err := e.Stats().Err; err != nil {
		t.Fatalf("Stats().Err when there is room again: %v", err)
	}
}

// TestSlowDisk holds an fsync: a call whose context ends leaves, and no record is
// shown before it is durable.
func TestSlowDisk(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	j, _ := mustJournal(t, fs, Fsync)
	if _, err := j.Append(t.Context(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fs.set(func(op fault) error {
		if op.kind == "fsync" {
			once.Do(func() { close(reached) })
			<-release
		}
		return nil
	})
	done := make(chan error)
	go func() {
		_, err := j.Append(context.Background(), []byte("two"))
		done <- err
	}()
	<-reached
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := j.Append(ctx, []byte("three"))
		waiting <- err
	}()
	if _, next, _ := j.Span(t.Context(), Own); next != 2 {
		t.Fatalf("Span says %d while record 2 isn't durable", next)
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Fatalf("Append whose context ended: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := records(t, j); string(got[2]) != "two" || len(got) != 2 {
		t.Fatalf("%d records, the second is %q", len(got), got[2])
	}
}
