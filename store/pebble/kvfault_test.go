package pebble

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// kvWork puts values large enough for memtables to be flushed and WALs to be
// rotated, and knows what must be there.
type kvWork struct {
	t     *testing.T
	k     store.KV
	sure  map[string]string
	maybe map[string]string // put, and an error came back
}

func newKVWork(t *testing.T, k store.KV) *kvWork {
	return &kvWork{t: t, k: k, sure: make(map[string]string), maybe: make(map[string]string)}
}

func (w *kvWork) put(i int) error {
	key := fmt.Sprintf("key %02d", i%40)
	val := fmt.Sprintf("%d %s", i, make([]byte, 20_000))
	_, err := w.k.Put(context.Background(), key, []byte(val), store.PutOptions{})
	if err != nil {
		w.maybe[key] = val
		return err
	}
	w.sure[key] = val
	delete(w.maybe, key)
	return nil
}

func (w *kvWork) verify(k store.KV, when string) {
	w.t.Helper()
	for key, want := range w.sure {
		e, err := k.Get(context.Background(), key)
		if err != nil {
			w.t.Fatalf("%s: Get(%q): %v", when, key, err)
		}
		if got := string(e.Value); got != want && got != w.maybe[key] {
			w.t.Fatalf("%s: Get(%q) = %.10q, expected %.10q", when, key, got, want)
		}
	}
}

// heals waits until the KV takes a Put again.
func (w *kvWork) heals(i int) {
	w.t.Helper()
	for tries := 0; ; tries++ {
		err := w.put(i)
		if err == nil {
			return
		}
		if tries > 2000 {
			w.t.Fatalf("the KV doesn't heal: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestKVSurvivesFaults lets each change of the disk fail in turn, once or from
// then on for a while, and expects that the process lives, that nothing returned is
// lost, and that the KV works again when the disk does.
func TestKVSurvivesFaults(t *testing.T) {
	const puts = 60
	all := runKVFault(t, puts, &counted{of: fault.kv, first: 1 << 30})
	if all < 100 {
		t.Fatalf("only %d changes of the disk in a run: the workload is too small", all)
	}
	step := 3
	if testing.Short() {
		step = 23
	}
	before := runtime.NumGoroutine()
	for at := 30; at <= all; at += step { // the first belong to Open
		c := &counted{of: fault.kv, first: at, last: at + at%3*50, err: []error{syscall.EIO, syscall.ENOSPC}[at%2]}
		runKVFault(t, puts, c)
	}
	noGoroutinesLeft(t, before)
}

func runKVFault(t *testing.T, puts int, c *counted) (changes int) {
	t.Helper()
	fs := &faultFS{FS: vfs.NewMem()}
	fs.set(c.rule)
	e, err := Open("data", Options{FS: fs})
	if err != nil {
		if injected(err) {
			return c.count() // refused to start, which is right
		}
		t.Fatal(err)
	}
	w := newKVWork(t, e.KV())
	for i := range puts {
		if err := w.put(i); err != nil && !injected(err) {
			t.Fatalf("Put after a fault: %v, expected the fault", err)
		}
	}
	changes = c.count()
	fs.set(nil)
	e.kv.every.Store(0)
	w.heals(puts)
	if err := e.Stats().Err; err != nil {
		t.Fatalf("Stats().Err of a KV that works: %v", err)
	}
	w.verify(e.KV(), fmt.Sprintf("fault %v", c.hit))
	if err := e.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	e, err = Open("data", Options{FS: fs.FS})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	w.verify(e.KV(), fmt.Sprintf("fault %v and a restart", c.hit))
	return changes
}

func noGoroutinesLeft(t *testing.T, before int) {
	t.Helper()
	for range 400 {
		if runtime.NumGoroutine() <= before {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// TestKVOutOfService looks at the time in between: writes say so, reads go on, once
// a second the KV is tried, and a watcher begins again.
func TestKVOutOfService(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	e, err := Open("data", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx := t.Context()
	if _, err := e.KV().Put(ctx, "a", []byte("1"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	watched := make(chan error)
	shown := make(chan string, 100)
	go func() {
		for c, err := range e.KV().Watch(ctx, "", 0) {
			if err != nil {
				watched <- err
				return
			}
			shown <- c.Key
		}
	}()
	<-shown
	var tries atomic.Int32
	fs.set(func(op fault) error {
		if !op.kv() {
			return nil
		}
		tries.Add(1)
		return syscall.EIO
	})
	_, err = e.KV().Put(ctx, "b", []byte("1"), store.PutOptions{})
	if !errors.Is(err, syscall.EIO) {
		t.Fatalf("Put on a broken disk: %v, expected EIO", err)
	}
	for tries := 0; ; tries++ { // until it is opened for reading
		if _, err := e.KV().Get(ctx, "a"); err == nil {
			break
		} else if !errors.Is(err, syscall.EIO) || tries > 1000 {
			t.Fatalf("Get while nothing can be written: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	for range 100 {
		if _, err := e.KV().Put(ctx, "b", nil, store.PutOptions{}); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Put while out of service: %v, expected EIO", err)
		}
		if got, err := e.KV().Get(ctx, "a"); err != nil || string(got.Value) != "1" {
			t.Fatalf("Get while nothing can be written: %q, %v", got.Value, err)
		}
	}
	if n := tries.Load(); n > 10 {
		t.Fatalf("%d changes tried on a broken disk by 200 calls, expected one or two openings", n)
	}
	if err := e.Stats().Err; !errors.Is(err, syscall.EIO) {
		t.Fatalf("Stats().Err = %v, expected EIO", err)
	}
	if err := <-watched; err == nil {
		t.Fatal("Watch went on over a failure")
	}
	// The journal is another matter.
	if _, err := e.Journal().Append(ctx, []byte("works")); err != nil {
		t.Fatalf("Append while the KV is out of service: %v", err)
	}
	fs.set(nil)
	// Housekeeping alone must bring it back.
	for e.Stats().Err != nil {
		<-time.After(20 * time.Millisecond)
	}
	if got, err := e.KV().Get(ctx, "a"); err != nil || string(got.Value) != "1" {
		t.Fatalf("Get after the disk is well again: %q, %v", got.Value, err)
	}
}
