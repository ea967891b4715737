package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"fairlead/store"
)

func testAppendNumbers(t *testing.T, s *suite) {
	if first, next := s.span(); first != 1 || next != 1 {
		t.Fatalf("Span of an empty journal = %d, %d, expected 1, 1", first, next)
	}
	for i := 1; i <= 5; i++ {
		if at := s.append(fmt.Sprint("record ", i)); at != store.Pos(i) {
			t.Fatalf("Append = %d, expected %d", at, i)
		}
	}
	if first, next := s.span(); first != 1 || next != 6 {
		t.Fatalf("Span = %d, %d, expected 1, 6", first, next)
	}
	want := []string{"record 1", "record 2", "record 3", "record 4", "record 5"}
	if got := s.read(1, 6); !slices.Equal(got, want) {
		t.Fatalf("Tail = %q, expected %q", got, want)
	}
	ids, err := s.journal().Journals(s.ctx)
	if err != nil || !slices.Contains(ids, s.own()) {
		t.Fatalf("Journals = %q, %v, expected %q in it", ids, err, s.own())
	}
}

func testAppendKeepsNothing(t *testing.T, s *suite) {
	buf := []byte("first")
	if _, err := s.journal().Append(s.ctx, buf); err != nil {
		t.Fatal(err)
	}
	copy(buf, "wrong")
	if got := s.read(1, 2); got[0] != "first" {
		t.Fatalf("Tail = %q after the caller used its buffer again, expected %q", got, "first")
	}
}

func testAppendSizes(t *testing.T, s *suite) {
	sizes := []int{0, 1, 7, 4095, 4096, 4097, 70_000, 1 << 20, 0, 3}
	for i, n := range sizes {
		if _, err := s.journal().Append(s.ctx, pattern(n, byte(i))); err != nil {
			t.Fatalf("Append of %d bytes: %v", n, err)
		}
	}
	s.restart()
	for i, got := range s.read(1, store.Pos(len(sizes)+1)) {
		if got != string(pattern(sizes[i], byte(i))) {
			t.Fatalf("record %d: %d bytes that differ from the %d appended", i+1, len(got), sizes[i])
		}
	}
}

func testAppendConcurrently(t *testing.T, s *suite) {
	const writers, each = 8, 25
	var mu sync.Mutex
	at := make(map[store.Pos]string)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := store.Pos(0)
			for i := range each {
				rec := fmt.Sprintf("%d/%d", w, i)
				pos, err := s.journal().Append(s.ctx, []byte(rec))
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				if pos <= last {
					t.Errorf("a writer's record got place %d after %d", pos, last)
				}
				last = pos
				mu.Lock()
				at[pos] = rec
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(at) != writers*each {
		t.Fatalf("%d different places for %d records", len(at), writers*each)
	}
	for i, rec := range s.read(1, writers*each+1) {
		if at[store.Pos(i+1)] != rec {
			t.Fatalf("record %d is %q, Append returned the place for %q", i+1, rec, at[store.Pos(i+1)])
		}
	}
}

func testAppendCancelled(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.journal().Append(ctx, []byte("never"))
	s.wantErr("Append with a context that has ended", err, context.Canceled)
	if at := s.append("one"); at != 1 {
		t.Fatalf("Append after one that failed = %d, expected 1", at)
	}
	if got := s.read(1, 2); got[0] != "one" {
		t.Fatalf("record 1 is %q, expected %q", got[0], "one")
	}
}

// testTailFollows reads while it is written, by several readers.
func testTailFollows(t *testing.T, s *suite) {
	const n = 100
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			at := store.Pos(1)
			for rec, err := range s.journal().Tail(s.ctx, s.own(), 0) {
				if err != nil {
					t.Errorf("Tail at %d: %v", at, err)
					return
				}
				if rec.Pos != at || string(rec.Data) != fmt.Sprint(at) {
					t.Errorf("Tail yielded %d %q, expected %d", rec.Pos, rec.Data, at)
					return
				}
				if at++; at > n {
					return
				}
			}
		})
	}
	for i := 1; i <= n; i++ {
		s.append(fmt.Sprint(i))
	}
	wg.Wait()
}

func testTailFromTheEnd(t *testing.T, s *suite) {
	s.append("one")
	s.append("two")
	got := make(chan store.Record, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for rec, err := range s.journal().Tail(s.ctx, s.own(), 3) {
			if err != nil {
				t.Errorf("Tail: %v", err)
			}
			got <- rec
			return
		}
	})
	s.append("three")
	if rec := <-got; rec.Pos != 3 || string(rec.Data) != "three" {
		t.Fatalf("Tail from 3 began with %d %q", rec.Pos, rec.Data)
	}
}

func testTailStops(t *testing.T, s *suite) {
	s.append("one")
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	n := 0
	var last error
	for _, err := range s.journal().Tail(ctx, s.own(), 1) {
		if n++; err != nil {
			last = err
			continue // nothing may come after an error
		}
		cancel()
	}
	if n != 2 {
		t.Fatalf("Tail yielded %d times, expected a record and an error", n)
	}
	s.wantErr("Tail whose context ended", last, context.Canceled)
}

func testTailUnknown(t *testing.T, s *suite) {
	const id = "no-such-node"
	for _, err := range s.journal().Tail(s.ctx, id, 1) {
		s.wantErr("Tail of an unknown journal", err, store.ErrNotFound)
	}
	_, _, err := s.journal().Span(s.ctx, id)
	s.wantErr("Span of an unknown journal", err, store.ErrNotFound)
	s.wantErr("Trim of an unknown journal", s.journal().Trim(s.ctx, id, 1), store.ErrNotFound)
}

// testTrim allows that fewer records are forgotten than were named.
func testTrim(t *testing.T, s *suite) {
	for i := 1; i <= 20; i++ {
		s.append(fmt.Sprint(i))
	}
	if err := s.journal().Trim(s.ctx, s.own(), 12); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		first, next := s.span()
		if first < 1 || first > 13 || next != 21 {
			t.Fatalf("Span = %d, %d after a trim up to 12 of 20 records", first, next)
		}
		if got := s.read(first, next); got[0] != fmt.Sprint(first) || got[len(got)-1] != "20" {
			t.Fatalf("Tail from %d = %q", first, got)
		}
		if first > 1 {
			s.wantTrimmed(first - 1)
		}
		s.restart()
	}
}

func (s *suite) wantTrimmed(from store.Pos) {
	s.t.Helper()
	for rec, err := range s.journal().Tail(s.ctx, s.own(), from) {
		if err == nil {
			s.t.Fatalf("Tail from the trimmed place %d yielded record %d", from, rec.Pos)
		}
		s.wantErr("Tail from a trimmed place", err, store.ErrTrimmed)
	}
}

func testTrimEverything(t *testing.T, s *suite) {
	for range 3 {
		s.append("x")
	}
	for range 2 { // also of nothing, and beyond the end
		if err := s.journal().Trim(s.ctx, s.own(), 100); err != nil {
			t.Fatal(err)
		}
	}
	if _, next := s.span(); next != 4 {
		t.Fatalf("the next record would be %d after a trim of all, expected 4", next)
	}
	s.restart()
	if at := s.append("four"); at != 4 {
		t.Fatalf("Append after a trim of all and a restart = %d, expected 4", at)
	}
	if got := s.read(4, 5); got[0] != "four" {
		t.Fatalf("record 4 is %q", got[0])
	}
}

func testJournalSurvives(t *testing.T, s *suite) {
	var want []string
	for round := range 3 {
		for i := range 10 {
			rec := fmt.Sprintf("%d.%d", round, i)
			want = append(want, rec)
			if at := s.append(rec); at != store.Pos(len(want)) {
				t.Fatalf("Append = %d, expected %d", at, len(want))
			}
		}
		s.restart()
		if first, next := s.span(); first != 1 || next != store.Pos(len(want)+1) {
			t.Fatalf("Span after a restart = %d, %d, expected 1, %d", first, next, len(want)+1)
		}
		if got := s.read(1, store.Pos(len(want)+1)); !slices.Equal(got, want) {
			t.Fatalf("after a restart %q, expected %q", got, want)
		}
	}
}
