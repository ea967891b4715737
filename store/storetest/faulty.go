package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"fairlead/store"
)

// ErrCrashed is what a [Faulty] answers after its Crash.
var ErrCrashed = errors.New("storetest: the process has crashed")

// All, as a number of calls that shall fail, means all from now on.
const All = -1

// Faulty is an Engine around another one whose failures a test controls:
//
//	f := storetest.NewFaulty(mem.New())
//	… a broker runs on f …
//	f.FailAppends(1, syscall.ENOSPC)
//	f = f.Crash(0)
//	… another broker runs on what is left …
//
// It starts no goroutine and works in the bubble of a synctest, if the Engine
// below does.
type Faulty struct {
	below store.Engine

	// under is held for reading by each call that changes the Engine below, so
	// that none is under way, or comes later, once a Crash has begun.
	under sync.RWMutex

	mu       sync.Mutex // guards all below, and is not held while the Engine works
	crashed  bool
	appends  failures
	kv       failures
	holding  bool
	held     []*heldAppend // in the order in which they came
	failed   []byte        // the last record that failed, until one succeeds
	hasFail  bool
	appended int
	stops    map[int]context.CancelFunc // of Tail and Watch
	nextStop int
}

// failures are the calls that shall fail.
type failures struct {
	n   int // All: every one
	err error
}

// take returns the error for one call.
func (f *failures) take() error {
	if f.n == 0 {
		return nil
	}
	if f.n > 0 {
		f.n--
	}
	return f.err
}

// A heldAppend waits until it is released or the process crashes.
type heldAppend struct {
	rec  []byte
	done chan struct{}
}

// NewFaulty returns a Faulty that lets everything through.
func NewFaulty(e store.Engine) *Faulty {
	return &Faulty{below: e, stops: make(map[int]context.CancelFunc)}
}

// FailAppends lets the next n calls of Append fail with err, nothing of them
// being written; n may be All, and 0 ends it.
func (f *Faulty) FailAppends(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.appends = failures{n, err}
}

// FailKV lets the next n calls of the KV fail with err, nothing being changed.
func (f *Faulty) FailKV(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kv = failures{n, err}
}

// HoldAppends lets calls of Append wait, before anything is written, until the
// func it returns is called. Those that wait are then appended in the order in
// which they came.
func (f *Faulty) HoldAppends() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding = true
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.holding = false
		f.nextLocked()
	}
}

// Held is how many calls of Append wait.
func (f *Faulty) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

// Appended is how many calls of Append have succeeded.
func (f *Faulty) Appended() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.appended
}

// nextLocked lets the first that waits go on. It wakes the one behind it.
func (f *Faulty) nextLocked() {
	if len(f.held) > 0 && !f.holding {
		select {
		case <-f.held[0].done:
		default:
			close(f.held[0].done)
		}
	}
}

// Crash simulates the end of the process: all calls, those that wait included,
// end with ErrCrashed, and reach the Engine below no more. It returns what a new
// process finds: all that was durable, and of the Appends that had not returned
// the first keep. If none was under way and keep is at least one, the Append
// that failed last is kept, if it was the last one: the contract of
// [store.Journal] allows both.
func (f *Faulty) Crash(keep int) *Faulty {
	f.under.Lock()
	f.mu.Lock()
	f.crashed = true
	var kept [][]byte
	if f.hasFail {
		kept = append(kept, f.failed)
	}
	if len(f.held) > 0 {
		kept = nil
	}
	for _, h := range f.held {
		kept = append(kept, h.rec)
		select {
		case <-h.done:
		default:
			close(h.done)
		}
	}
	for _, stop := range f.stops {
		stop()
	}
	f.mu.Unlock()
	f.under.Unlock()
	for _, rec := range kept[:min(max(keep, 0), len(kept))] {
		if _, err := f.below.Journal().Append(context.Background(), rec); err != nil {
			panic(fmt.Sprintf("storetest: the Engine below Faulty must work at Crash: %v", err))
		}
	}
	return NewFaulty(f.below)
}

// Journal, KV, Bus, Stats and Close make Faulty an Engine.
func (f *Faulty) Journal() store.Journal { return faultyJournal{f} }
func (f *Faulty) KV() store.KV           { return faultyKV{f} }
func (f *Faulty) Bus() store.Bus         { return f.below.Bus() }

// Stats shows the error that calls of Append get at present.
func (f *Faulty) Stats() store.Stats {
	s := f.below.Stats()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.appends.n != 0 {
		s.Err = f.appends.err
	}
	if f.crashed {
		s.Err = ErrCrashed
	}
	return s
}

// Close closes the Engine below, unless Crash has handed that to another.
func (f *Faulty) Close() error {
	if f.isCrashed() {
		return nil
	}
	return f.below.Close()
}

func (f *Faulty) isCrashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// stopOnCrash returns a context for a call that waits for changes.
func (f *Faulty) stopOnCrash(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		cancel()
	}
	id := f.nextStop
	f.nextStop++
	f.stops[id] = cancel
	return ctx, func() {
		cancel()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.stops, id)
	}
}

type faultyJournal struct{ f *Faulty }

func (j faultyJournal) Append(ctx context.Context, rec []byte) (store.Pos, error) {
	f := j.f
	me := &heldAppend{rec: bytes.Clone(rec), done: make(chan struct{})}
	if err := f.enter(me); err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	select {
	case <-me.done:
	case <-ctx.Done():
	}
	return f.appendHeld(ctx, me)
}

// enter queues an Append. What shall fail fails here.
func (f *Faulty) enter(me *heldAppend) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return ErrCrashed
	}
	if err := f.appends.take(); err != nil {
		f.failed, f.hasFail = me.rec, true
		return err
	}
	f.held = append(f.held, me)
	f.nextLocked()
	return nil
}

// appendHeld writes the record of the call whose turn it is.
func (f *Faulty) appendHeld(ctx context.Context, me *heldAppend) (store.Pos, error) {
	f.under.RLock()
	defer f.under.RUnlock()
	var at store.Pos
	err := ctx.Err()
	switch {
	case f.isCrashed():
		err = ErrCrashed
	case err == nil:
		at, err = f.below.Journal().Append(ctx, me.rec)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaveLocked(me)
	if err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	f.appended++
	f.failed, f.hasFail = nil, false
	return at, nil
}

func (f *Faulty) leaveLocked(me *heldAppend) {
	for i, h := range f.held {
		if h == me {
			f.held = append(f.held[:i:i], f.held[i+1:]...)
			break
		}
	}
	f.nextLocked()
}

func (j faultyJournal) Tail(ctx context.Context, id store.JournalID, from store.Pos) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		ctx, done := j.f.stopOnCrash(ctx)
		defer done()
		for rec, err := range j.f.below.Journal().Tail(ctx, id, from) {
			if j.f.isCrashed() {
				yield(store.Record{}, ErrCrashed)
				return
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func (j faultyJournal) Trim(ctx context.Context, id store.JournalID, upTo store.Pos) error {
	j.f.under.RLock()
	defer j.f.under.RUnlock()
	if j.f.isCrashed() {
		return ErrCrashed
	}
	return j.f.below.Journal().Trim(ctx, id, upTo)
}

func (j faultyJournal) Span(ctx context.Context, id store.JournalID) (first, next store.Pos, err error) {
	if j.f.isCrashed() {
		return 0, 0, ErrCrashed
	}
	return j.f.below.Journal().Span(ctx, id)
}

func (j faultyJournal) Journals(ctx context.Context) ([]store.JournalID, error) {
	if j.f.isCrashed() {
		return nil, ErrCrashed
	}
	return j.f.below.Journal().Journals(ctx)
}

func (j faultyJournal) Own() store.JournalID { return j.f.below.Journal().Own() }

type faultyKV struct{ f *Faulty }

// call says whether a call may go through.
func (k faultyKV) call() error {
	k.f.mu.Lock()
	defer k.f.mu.Unlock()
	if k.f.crashed {
		return ErrCrashed
	}
	return k.f.kv.take()
}

func (k faultyKV) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := k.call(); err != nil {
		return store.Entry{}, fmt.Errorf("get %q: %w", key, err)
	}
	return k.f.below.KV().Get(ctx, key)
}

func (k faultyKV) Put(ctx context.Context, key string, value []byte, o store.PutOptions) (store.Rev, error) {
	k.f.under.RLock()
	defer k.f.under.RUnlock()
	if err := k.call(); err != nil {
		return 0, fmt.Errorf("put %q: %w", key, err)
	}
	return k.f.below.KV().Put(ctx, key, value, o)
}

func (k faultyKV) Delete(ctx context.Context, key string, o store.PutOptions) error {
	k.f.under.RLock()
	defer k.f.under.RUnlock()
	if err := k.call(); err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return k.f.below.KV().Delete(ctx, key, o)
}

func (k faultyKV) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if err := k.call(); err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	return k.f.below.KV().List(ctx, prefix, after, limit)
}

func (k faultyKV) Watch(ctx context.Context, prefix string, from store.Rev) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		if err := k.call(); err != nil {
			yield(store.Change{}, fmt.Errorf("watch %q: %w", prefix, err))
			return
		}
		ctx, done := k.f.stopOnCrash(ctx)
		defer done()
		for c, err := range k.f.below.KV().Watch(ctx, prefix, from) {
			if k.f.isCrashed() {
				yield(store.Change{}, ErrCrashed)
				return
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

func (k faultyKV) Batch(ctx context.Context, ops []store.Op) error {
	k.f.under.RLock()
	defer k.f.under.RUnlock()
	if err := k.call(); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	return k.f.below.KV().Batch(ctx, ops)
}
