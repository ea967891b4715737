package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

const segmentTest = 64 << 10 // a few records

// testJournal opens a journal alone, without Pebble beside it.
func testJournal(fs vfs.FS, d Durability) (*journal, *survey, error) {
	if err := makeDir(fs, "data/journal"); err != nil {
		return nil, nil, err
	}
	o := Options{FS: fs}.withDefaults()
	j := &journal{fs: fs, dir: "data/journal", durability: d, segmentMax: segmentTest, logger: o.Logger, space: func(int64) error { return nil }}
	s, err := openJournal(context.Background(), j)
	return j, s, err
}

func mustJournal(t *testing.T, fs vfs.FS, d Durability) (*journal, *survey) {
	t.Helper()
	j, s, err := testJournal(fs, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	return j, s
}

// records reads what a journal holds. It may not end before its Span says so.
func records(t *testing.T, j *journal) map[store.Pos][]byte {
	t.Helper()
	got := make(map[store.Pos][]byte)
	first, next, err := j.Span(t.Context(), Own)
	if err != nil {
		t.Fatal(err)
	}
	if first == next {
		return got
	}
	at := first
	for rec, err := range j.Tail(t.Context(), Own, first) {
		if err != nil {
			t.Fatalf("Tail at %d of %d to %d: %v", at, first, next-1, err)
		}
		if rec.Pos != at {
			t.Fatalf("Tail yielded %d, expected %d", rec.Pos, at)
		}
		got[at] = rec.Data
		if at++; at == next {
			return got
		}
	}
	return got
}

// journalWork appends, and knows what must be there.
type journalWork struct {
	t    *testing.T
	mu   sync.Mutex
	sure map[store.Pos][]byte
	next store.Pos // of the next Append
	last [][]byte  // failed at next, since the last success
	n    int       // of Appends tried
}

func newJournalWork(t *testing.T) *journalWork {
	return &journalWork{t: t, sure: make(map[store.Pos][]byte), next: 1}
}

func (w *journalWork) append(j *journal) error {
	w.mu.Lock()
	w.n++
	rec := payload(w.n)
	w.last = append(w.last, rec) // may be there from now on
	w.mu.Unlock()
	at, err := j.Append(context.Background(), rec)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if at != w.next {
		w.t.Errorf("Append = %d, expected %d", at, w.next)
	}
	w.sure[at], w.last = rec, nil
	w.next++
	return nil
}

// snapshot is what a crash now must leave.
func (w *journalWork) snapshot() *journalWork {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := newJournalWork(w.t)
	for at, rec := range w.sure {
		s.sure[at] = rec
	}
	s.next, s.last, s.n = w.next, slices.Clone(w.last), w.n
	return s
}

// verify compares with what is there: all that returned, and one that failed only
// if nothing followed and only whole.
func (w *journalWork) verify(got map[store.Pos][]byte, first store.Pos, last bool, when string) {
	w.t.Helper()
	for at, rec := range w.sure {
		if at >= first && !bytes.Equal(got[at], rec) {
			w.t.Fatalf("%s: record %d is %.20q, expected %.20q", when, at, got[at], rec)
		}
	}
	for at, rec := range got {
		if _, ok := w.sure[at]; ok {
			continue
		}
		failed := slices.ContainsFunc(w.last, func(f []byte) bool { return bytes.Equal(f, rec) })
		if !last || at != w.next || !failed {
			w.t.Fatalf("%s: record %d is there, %.20q, and its Append failed or never was", when, at, rec)
		}
	}
}

// TestJournalSurvivesFaults lets each change of the disk fail in turn, leaving some
// blocks of what was to be written, once or for a while.
func TestJournalSurvivesFaults(t *testing.T) {
	all := runJournalFault(t, &counted{of: fault.journal, first: 1 << 30}, 0)
	if all < 100 {
		t.Fatalf("only %d changes of the disk in a run", all)
	}
	step := 3 // 1 takes a while under -race, and has been seen to pass
	if testing.Short() {
		step = 13
	}
	for at := 1; at <= all; at += step {
		for _, more := range []int{0, []int{1, 5, 40}[at%3]} {
			err := []error{syscall.EIO, syscall.ENOSPC}[at%2]
			runJournalFault(t, &counted{of: fault.journal, first: at, last: at + more, err: err}, uint64(at))
		}
	}
}

func runJournalFault(t *testing.T, c *counted, seed uint64) (changes int) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	fs := &faultFS{FS: mem, rule: c.rule, torn: rand.New(rand.NewPCG(seed, 0))}
	j, _, err := testJournal(fs, Fsync)
	if err != nil {
		if injected(err) {
			return c.count()
		}
		t.Fatal(err)
	}
	w := newJournalWork(t)
	const appends = 40
	for i := range appends {
		err := w.append(j)
		if err != nil && !injected(err) {
			t.Fatalf("fault %v: Append: %v", c.hit, err)
		}
		if err != nil && j.err == nil {
			t.Fatalf("Stats would show no error after %v", err)
		}
		if i%13 == 12 { // one that fails is made up for by the next
			if err := j.Trim(t.Context(), Own, w.next/2); err != nil && !injected(err) {
				t.Fatalf("fault %v: Trim: %v", c.hit, err)
			}
		}
	}
	when := fmt.Sprintf("seed %d, fault %v", seed, c.hit)
	got := records(t, j)
	first, _, _ := j.Span(t.Context(), Own)
	w.verify(got, first, false, when)
	changes = c.count()
	crash := w.snapshot()
	for _, percent := range []int{0, 50, 100} {
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 1))})
		verifyClone(t, clone, crash, fmt.Sprintf("%s, crash with %d%% of unsynced", when, percent))
	}
	fs.set(nil)
	for range 3 {
		if err := w.append(j); err != nil {
			t.Fatalf("%s: Append when the disk is well again: %v", when, err)
		}
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	verifyClone(t, mem, w, when+", restart")
	return changes
}

// verifyClone opens what a crash has left, and appends to it.
func verifyClone(t *testing.T, fs vfs.FS, w *journalWork, when string) {
	t.Helper()
	j, _, err := testJournal(fs, Fsync)
	if err != nil {
		t.Fatalf("%s: open: %v", when, err)
	}
	first, next, _ := j.Span(t.Context(), Own)
	got := records(t, j)
	w.verify(got, first, true, when)
	if next < w.next {
		t.Fatalf("%s: the journal ends with %d, expected %d", when, next-1, w.next-1)
	}
	more := []byte("after the crash")
	if at, err := j.Append(t.Context(), more); err != nil || at != next {
		t.Fatalf("%s: Append = %d, %v, expected %d", when, at, err, next)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j, _, err = testJournal(fs, Fsync)
	if err != nil {
		t.Fatalf("%s: second open: %v", when, err)
	}
	defer j.close()
	got[next] = more
	again := records(t, j)
	if len(again) != len(got) {
		t.Fatalf("%s: %d records after one more, expected %d", when, len(again), len(got))
	}
	for at, rec := range got {
		if !bytes.Equal(again[at], rec) {
			t.Fatalf("%s: record %d is %.20q after one more, expected %.20q", when, at, again[at], rec)
		}
	}
}

// TestJournalSurvivesPowerLoss takes the power away before and after each change of
// the disk, with none, some and all of what was not synced on it.
func TestJournalSurvivesPowerLoss(t *testing.T) {
	mem := vfs.NewCrashableMem()
	w := newJournalWork(t)
	rng := rand.New(rand.NewPCG(7, 7))
	var clones []func()
	fs := &faultFS{FS: mem, after: func(op fault) {
		if !op.journal() {
			return
		}
		crash := w.snapshot()
		for _, percent := range []int{0, 30, 70, 100} {
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			clones = append(clones, func() {
				verifyClone(t, clone, crash, fmt.Sprintf("power lost after %v at record %d, %d%% of unsynced", op, crash.next, percent))
			})
		}
	}}
	j, _ := mustJournal(t, fs, Fsync)
	for i := range 50 {
		if err := w.append(j); err != nil {
			t.Fatal(err)
		}
		if i%15 == 14 {
			if err := j.Trim(t.Context(), Own, w.next-3); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d crashes", len(clones))
	for _, verify := range clones {
		verify()
	}
}

// TestOSDurability loses the end in a power cut, in order and with a report, and
// nothing when only the process ends.
func TestOSDurability(t *testing.T) {
	holes := 0
	for seed := range uint64(40) {
		mem := vfs.NewCrashableMem()
		j, _ := mustJournal(t, mem, OS)
		w := newJournalWork(t)
		for range 40 {
			if err := w.append(j); err != nil {
				t.Fatal(err)
			}
		}
		process := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(seed, 0))})
		verifyClone(t, process, w, "the process ended")
		power := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 80, RNG: rand.New(rand.NewPCG(seed, 0))})
		j, s, err := testJournal(power, OS)
		if err != nil {
			t.Fatalf("open after a power cut: %v", err)
		}
		if s.cut != nil {
			holes++
			if s.cut.From != s.next() || s.cut.To < s.cut.From {
				t.Fatalf("cut %+v, and the journal ends with %d", s.cut, s.next()-1)
			}
		}
		for at, rec := range records(t, j) {
			if !bytes.Equal(rec, w.sure[at]) {
				t.Fatalf("record %d differs", at)
			}
		}
		next := s.next()
		if at, err := j.Append(t.Context(), []byte("on")); err != nil || at != next {
			t.Fatalf("Append = %d, %v, expected %d", at, err, next)
		}
		j.close()
		j, s, err = testJournal(power, Fsync)
		if err != nil || s.next() != next+1 {
			t.Fatalf("reopen: %v, next %d, expected %d", err, s.next(), next+1)
		}
		j.close()
	}
	if holes == 0 {
		t.Error("no power cut left a hole: the test is too kind")
	}
}

// TestAppendWhileTailing lets a reader stand in segments that are trimmed and
// recycled: it gets the right records or ErrTrimmed, never others.
func TestAppendWhileTailing(t *testing.T) {
	j, _ := mustJournal(t, vfs.NewMem(), Fsync)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 {
		wg.Go(func() {
			for from := store.Pos(1); ctx.Err() == nil; {
				for rec, err := range j.Tail(ctx, Own, from) {
					if errors.Is(err, store.ErrTrimmed) {
						from, _, _ = j.Span(t.Context(), Own)
						break
					}
					if err != nil {
						if ctx.Err() == nil {
							t.Errorf("Tail: %v", err)
						}
						return
					}
					if !bytes.Equal(rec.Data, payload(int(rec.Pos))) {
						t.Errorf("record %d is %.20q", rec.Pos, rec.Data)
						return
					}
					from = rec.Pos + 1
				}
			}
		})
	}
	for i := 1; i <= 1000; i++ {
		if _, err := j.Append(ctx, payload(i)); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := j.Trim(ctx, Own, store.Pos(i-i%17)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestLargeRecords(t *testing.T) {
	mem := vfs.NewMem()
	j, _ := mustJournal(t, mem, Fsync)
	var want [][]byte
	for i, n := range []int{10, 3 << 20, 0, segmentTest - headSize - 2*block - frameHead, segmentTest, 17 << 20} {
		rec := bytes.Repeat([]byte{byte(i), 1, 2, 3, 5, 7, 11}, n/7+1)[:n]
		want = append(want, rec)
		if _, err := j.Append(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.Append(t.Context(), make([]byte, recordMax+1)); err == nil {
		t.Fatal("a record beyond the limit was accepted")
	}
	if cap(j.buf) > bufferMax {
		t.Fatalf("a buffer of %d bytes stays behind a large record", cap(j.buf))
	}
	j.close()
	j, _ = mustJournal(t, mem, Fsync)
	for at, rec := range records(t, j) {
		if !bytes.Equal(rec, want[at-1]) {
			t.Fatalf("record %d of %d bytes differs", at, len(want[at-1]))
		}
	}
}
