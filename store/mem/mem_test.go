package mem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/store"
	"fairlead/store/mem"
	"fairlead/store/storetest"
)

func open(t *testing.T) store.Engine {
	e := mem.New()
	t.Cleanup(func() { e.Close() })
	return e
}

func TestEngine(t *testing.T) {
	storetest.Run(t, open, func(t *testing.T, e store.Engine) store.Engine {
		return e.(*mem.Engine).Reopen()
	})
}

func TestFaultyLetsThrough(t *testing.T) {
	storetest.Run(t,
		func(t *testing.T) store.Engine { return storetest.NewFaulty(open(t)) },
		func(t *testing.T, e store.Engine) store.Engine { return e.(*storetest.Faulty).Crash(0) })
}

// TestBubble waits in each way there is, in fake time.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		e := mem.New()
		var records, changes []string
		go func() {
			for rec, err := range e.Journal().Tail(ctx, mem.Own, 1) {
				records = append(records, fmt.Sprint(string(rec.Data), err))
			}
		}()
		go func() {
			for c, err := range e.KV().Watch(ctx, "", 0) {
				changes = append(changes, fmt.Sprint(c.Key, c.Deleted, err))
			}
		}()
		synctest.Wait()
		e.Journal().Append(ctx, []byte("one "))
		e.KV().Put(ctx, "a ", nil, store.PutOptions{TTL: time.Hour})
		synctest.Wait()
		time.Sleep(time.Hour)
		synctest.Wait()
		e.Close()
		synctest.Wait()
		if got, want := fmt.Sprintf("%q", records), `["one <nil>" "tail local from 2: the store is closed"]`; got != want {
			t.Errorf("Tail: %s, expected %s", got, want)
		}
		if got, want := fmt.Sprintf("%q", changes), `["a false <nil>" "a true <nil>" "false watch \"\": the store is closed"]`; got != want {
			t.Errorf("Watch: %s, expected %s", got, want)
		}
	})
}

func TestWatcherFarBehind(t *testing.T) {
	e := open(t)
	ctx := t.Context()
	e.KV().Put(ctx, "first", nil, store.PutOptions{})
	n := 0
	for _, err := range e.KV().Watch(ctx, "", 0) {
		if err != nil {
			if n != 1 {
				t.Fatalf("%v after %d changes, expected 1", err, n)
			}
			return
		}
		n++
		for i := range 3 << 16 {
			e.KV().Put(ctx, fmt.Sprint(i), nil, store.PutOptions{})
		}
	}
}

func TestFaultyAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		full := errors.New("full")
		f := storetest.NewFaulty(mem.New())
		append1 := func(rec string) string {
			at, err := f.Journal().Append(ctx, []byte(rec))
			return fmt.Sprint(at, err)
		}
		want := func(got, want string) {
			t.Helper()
			if got != want {
				t.Fatalf("got %s, expected %s", got, want)
			}
		}
		want(append1("a"), "1 <nil>")
		f.FailAppends(1, full)
		want(append1("lost"), "0 append: full")
		want(append1("b"), "2 <nil>")
		f.FailAppends(storetest.All, full)
		want(append1("lost"), "0 append: full")
		want(append1("last"), "0 append: full")
		f = f.Crash(1)
		want(contents(t, f), `["a" "b" "last"]`)

		release := f.HoldAppends()
		results := make(chan string, 2)
		go func() { results <- append1("c") }()
		synctest.Wait()
		go func() { results <- append1("d") }()
		synctest.Wait()
		want(fmt.Sprint(f.Held()), "2")
		release()
		want(<-results, "4 <nil>")
		want(<-results, "5 <nil>")

		f.HoldAppends()
		go func() { results <- append1("e") }()
		synctest.Wait()
		go func() { results <- append1("f") }()
		synctest.Wait()
		dead := f
		f = f.Crash(1)
		for range 2 {
			want(<-results, "0 append: storetest: the process has crashed")
		}
		want(contents(t, f), `["a" "b" "last" "c" "d" "e"]`)
		if _, err := dead.KV().Get(ctx, "x"); !errors.Is(err, storetest.ErrCrashed) {
			t.Fatalf("the dead process still reads: %v", err)
		}
	})
}

func TestFaultyKV(t *testing.T) {
	ctx := t.Context()
	f := storetest.NewFaulty(open(t))
	io := errors.New("input/output error")
	f.FailKV(1, io)
	if _, err := f.KV().Put(ctx, "a", nil, store.PutOptions{}); !errors.Is(err, io) {
		t.Fatalf("Put: %v, expected %v", err, io)
	}
	if _, err := f.KV().Get(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get after a Put that failed: %v", err)
	}
}

// TestFaultyCrashEndsWaiting needs the bubble: it fails if a goroutine is left.
func TestFaultyCrashEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := storetest.NewFaulty(mem.New())
		ended := make(chan error, 2)
		go func() {
			for _, err := range f.Journal().Tail(context.Background(), mem.Own, 1) {
				ended <- err
			}
		}()
		go func() {
			for _, err := range f.KV().Watch(context.Background(), "", 0) {
				ended <- err
			}
		}()
		synctest.Wait()
		f.Crash(0)
		for range 2 {
			if err := <-ended; !errors.Is(err, storetest.ErrCrashed) {
				t.Errorf("ended with %v, expected ErrCrashed", err)
			}
		}
	})
}

func contents(t *testing.T, e store.Engine) string {
	t.Helper()
	_, next, err := e.Journal().Span(t.Context(), mem.Own)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for rec, err := range e.Journal().Tail(t.Context(), mem.Own, 1) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(rec.Data))
		if rec.Pos+1 == next {
			break
		}
	}
	return fmt.Sprintf("%q", got)
}
