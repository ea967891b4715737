// Package mem is the engine in memory, for tests and for brokers that need not
// remember anything. Begin with [New].
package mem

import (
	"context"
	"sync"

	"fairlead/store"
)

// Own is the name of the only journal.
const Own store.JournalID = "local"

// Engine keeps everything in maps and slices. It starts no goroutine and makes
// every channel it waits on within the call that waits, so that it works in the
// bubble of a synctest.
//
// A broker that is started on the Engine of an earlier one finds what that one
// wrote. After a Close, [Engine.Reopen] gives an Engine with the same content.
type Engine struct {
	mu      sync.Mutex // guards all below
	closed  bool
	journal journal
	kv      kv
	waiting map[chan struct{}]struct{} // Tail and Watch, to be woken by any change
}

// New returns an empty Engine.
func New() *Engine {
	return &Engine{
		journal: journal{first: 1},
		kv:      kv{entries: make(map[string]entry)},
		waiting: make(map[chan struct{}]struct{}),
	}
}

// Reopen closes e and returns an Engine with its content: a restart.
func (e *Engine) Reopen() *Engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeLocked()
	next := New()
	next.journal, next.kv = e.journal, e.kv
	next.kv.watchers, next.kv.changes = 0, changes{}
	e.journal, e.kv = journal{}, kv{}
	return next
}

// Journal, KV and Bus are views of the same Engine.
func (e *Engine) Journal() store.Journal { return (*journalOf)(e) }
func (e *Engine) KV() store.KV           { return (*kvOf)(e) }
func (e *Engine) Bus() store.Bus         { return noBus{} }

// Stats counts bytes as if memory were a disk.
func (e *Engine) Stats() store.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := store.Stats{
		JournalRecords: uint64(len(e.journal.records)),
		JournalBytes:   e.journal.bytes,
		Appends:        e.journal.appends,
		AppendedBytes:  e.journal.appended,
		WrittenBytes:   e.journal.appended + e.kv.written,
		KVBytes:        e.kv.bytes,
		FreeBytes:      -1,
	}
	s.SyncLatency[0] = s.Appends
	if e.closed {
		s.Err = store.ErrClosed
	}
	return s
}

// Close ends every Tail and Watch with ErrClosed.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeLocked()
	return nil
}

func (e *Engine) closeLocked() {
	e.closed = true
	e.wakeLocked()
}

// checkLocked is what every call begins with.
func (e *Engine) checkLocked(ctx context.Context) error {
	if e.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}

// A waiter's channel has room for one token: a change that comes while the
// waiter works wakes it the next time.
func (e *Engine) waiterLocked() chan struct{} {
	w := make(chan struct{}, 1)
	e.waiting[w] = struct{}{}
	return w
}

func (e *Engine) forget(w chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiting, w)
}

func (e *Engine) wakeLocked() {
	for w := range e.waiting {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// noBus is the Bus of a node that is alone.
type noBus struct{}

func (noBus) Send(context.Context, store.NodeID, []byte) error { return errAlone }
func (noBus) Request(context.Context, store.NodeID, []byte) ([]byte, error) {
	return nil, errAlone
}
func (noBus) Nodes() []store.NodeID { return nil }
