package mem

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"fairlead/store"
)

const (
	keyMax   = 64<<10 + 64 // bytes; beyond it a call is refused
	valueMax = 1 << 30     // bytes; beyond it a call is refused
)

type entry struct {
	value   []byte
	rev     store.Rev
	expires time.Time // zero: never
}

type kv struct {
	entries  map[string]entry
	keys     []string // sorted from 0 to sorted, then as they came; may hold deleted ones
	sorted   int
	expiries expiries
	rev      store.Rev
	bytes    int64
	written  uint64
	watchers int
	changes  changes
}

// kvOf is an Engine as a store.KV.
type kvOf Engine

// lock begins a call: it checks, and drops what has expired.
func (k *kvOf) lock(ctx context.Context) (*Engine, error) {
	e := (*Engine)(k)
	e.mu.Lock()
	if err := e.checkLocked(ctx); err != nil {
		e.mu.Unlock()
		return nil, err
	}
	e.expireLocked(time.Now())
	return e, nil
}

func (k *kvOf) Get(ctx context.Context, key string) (store.Entry, error) {
	e, err := k.lock(ctx)
	if err != nil {
		return store.Entry{}, fmt.Errorf("get %q: %w", key, err)
	}
	defer e.mu.Unlock()
	x, ok := e.kv.entries[key]
	if !ok {
		return store.Entry{}, fmt.Errorf("get %q: %w", key, store.ErrNotFound)
	}
	return x.as(key), nil
}

// as returns a copy. The value is never nil: that would mean a deletion.
func (x entry) as(key string) store.Entry {
	return store.Entry{Key: key, Value: append([]byte{}, x.value...), Rev: x.rev}
}

func (k *kvOf) Put(ctx context.Context, key string, value []byte, o store.PutOptions) (store.Rev, error) {
	if err := checkSize(key, value); err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	e, err := k.lock(ctx)
	if err != nil {
		return 0, fmt.Errorf("put %q: %w", key, err)
	}
	defer e.mu.Unlock()
	if now := e.kv.entries[key].rev; o.If && now != o.IfRev {
		return 0, fmt.Errorf("put %q: revision %d, expected %d: %w", key, now, o.IfRev, store.ErrRevision)
	}
	e.putLocked(key, value, o.TTL)
	e.wakeLocked()
	return e.kv.rev, nil
}

func (k *kvOf) Delete(ctx context.Context, key string, o store.PutOptions) error {
	e, err := k.lock(ctx)
	if err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	defer e.mu.Unlock()
	x, ok := e.kv.entries[key]
	if !ok {
		return fmt.Errorf("delete %q: %w", key, store.ErrNotFound)
	}
	if o.If && x.rev != o.IfRev {
		return fmt.Errorf("delete %q: revision %d, expected %d: %w", key, x.rev, o.IfRev, store.ErrRevision)
	}
	e.deleteLocked(key)
	e.wakeLocked()
	return nil
}

func (k *kvOf) Batch(ctx context.Context, ops []store.Op) error {
	for i, op := range ops {
		if err := checkSize(op.Key, op.Value); err != nil {
			return fmt.Errorf("batch: change %d: %w", i, err)
		}
	}
	e, err := k.lock(ctx)
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	defer e.mu.Unlock()
	for _, op := range ops {
		switch {
		case op.Delete && op.DeleteTo != "":
			for _, key := range e.rangeLocked(op.Key, op.DeleteTo) {
				e.deleteLocked(key)
			}
		case op.Delete:
			e.deleteLocked(op.Key)
		default:
			e.putLocked(op.Key, op.Value, 0)
		}
	}
	e.wakeLocked()
	return nil
}

func (k *kvOf) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	e, err := k.lock(ctx)
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	defer e.mu.Unlock()
	from := prefix
	if after >= from {
		from = after + "\x00"
	}
	var found []store.Entry
	keys := e.keysLocked()
	i, _ := slices.BinarySearch(keys, from)
	for _, key := range keys[i:] {
		if len(found) >= limit || !strings.HasPrefix(key, prefix) {
			break
		}
		if x, ok := e.kv.entries[key]; ok {
			found = append(found, x.as(key))
		}
	}
	return found, nil
}

func checkSize(key string, value []byte) error {
	if len(key) == 0 || len(key) > keyMax {
		return fmt.Errorf("a key of %d bytes, expected 1 to %d", len(key), keyMax)
	}
	if len(value) > valueMax {
		return fmt.Errorf("key %q: a value of %d bytes, expected at most %d", key, len(value), valueMax)
	}
	return nil
}

func (e *Engine) putLocked(key string, value []byte, ttl time.Duration) {
	old, ok := e.kv.entries[key]
	if ok {
		e.kv.bytes -= int64(len(key) + len(old.value))
	} else {
		e.kv.keys = append(e.kv.keys, key)
	}
	e.kv.rev++
	x := entry{value: bytes.Clone(value), rev: e.kv.rev}
	if ttl > 0 {
		x.expires = time.Now().Add(ttl)
		heap.Push(&e.kv.expiries, expiry{x.expires, key})
	}
	e.kv.entries[key] = x
	e.kv.bytes += int64(len(key) + len(value))
	e.kv.written += uint64(len(key) + len(value))
	e.changedLocked(key, false)
}

func (e *Engine) deleteLocked(key string) {
	old, ok := e.kv.entries[key]
	if !ok {
		return
	}
	delete(e.kv.entries, key)
	e.kv.rev++
	e.kv.bytes -= int64(len(key) + len(old.value))
	e.kv.written += uint64(len(key))
	e.changedLocked(key, true)
}

// keysLocked returns the keys in order. They are sorted when somebody asks, not
// when they come: a test that fills a store with a million keys would otherwise
// spend its time on moving them.
func (e *Engine) keysLocked() []string {
	k := &e.kv
	if k.sorted < len(k.keys) || len(k.keys) > 2*len(k.entries)+64 {
		slices.Sort(k.keys)
		k.keys = slices.DeleteFunc(slices.Compact(k.keys), func(key string) bool {
			_, ok := k.entries[key]
			return !ok
		})
		k.sorted = len(k.keys)
	}
	return k.keys
}

func (e *Engine) rangeLocked(from, to string) []string {
	keys := e.keysLocked()
	i, _ := slices.BinarySearch(keys, from)
	j, _ := slices.BinarySearch(keys, to)
	if j <= i {
		return nil
	}
	return keys[i:j]
}

// expiry is a heap entry. One whose key has been written again is stale.
type expiry struct {
	at  time.Time
	key string
}

type expiries []expiry

func (x expiries) Len() int           { return len(x) }
func (x expiries) Less(i, j int) bool { return x[i].at.Before(x[j].at) }
func (x expiries) Swap(i, j int)      { x[i], x[j] = x[j], x[i] }
func (x *expiries) Push(v any)        { *x = append(*x, v.(expiry)) }
func (x *expiries) Pop() any {
	last := len(*x) - 1
	v := (*x)[last]
	*x = (*x)[:last]
	return v
}

// expireLocked deletes what has outlived its TTL. Nobody sees such a key, since
// each call begins here, and a Watch sets a timer for the next one.
func (e *Engine) expireLocked(now time.Time) {
	expired := false
	for x := &e.kv.expiries; len(*x) > 0 && !(*x)[0].at.After(now); {
		key := heap.Pop(x).(expiry).key
		if at := e.kv.entries[key].expires; !at.IsZero() && !at.After(now) {
			e.deleteLocked(key)
			expired = true
		}
	}
	if expired {
		e.wakeLocked()
	}
}

// changes are the latest changes, for the watchers. It holds no values: a
// watcher takes the value that the key has when its turn comes, and passes over
// a change that a later one has replaced.
type changes struct {
	dropped uint64 // changes that once stood before those in list
	list    []change
}

type change struct {
	key     string
	rev     store.Rev
	deleted bool
}

// changesMax is how many changes a watcher may be behind; it then gets an error.
const changesMax = 1 << 16

func (e *Engine) changedLocked(key string, deleted bool) {
	if e.kv.watchers == 0 {
		return
	}
	c := &e.kv.changes
	c.list = append(c.list, change{key, e.kv.rev, deleted})
	if len(c.list) > 2*changesMax {
		c.list = slices.Clone(c.list[changesMax:])
		c.dropped += changesMax
	}
}

func (k *kvOf) Watch(ctx context.Context, prefix string, from store.Rev) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		if err := k.watch(ctx, prefix, from, yield); err != nil {
			yield(store.Change{}, fmt.Errorf("watch %q: %w", prefix, err))
		}
	}
}

// watch returns nil once yield has returned false.
func (k *kvOf) watch(ctx context.Context, prefix string, from store.Rev, yield func(store.Change, error) bool) error {
	e, err := k.lock(ctx)
	if err != nil {
		return err
	}
	e.kv.watchers++
	wake := e.waiterLocked()
	pending := e.presentLocked(prefix, from)
	at := e.kv.changes.dropped + uint64(len(e.kv.changes.list))
	e.mu.Unlock()
	defer e.endWatch(wake)
	for {
		for _, p := range pending {
			c, ok := e.current(p)
			if ok && !yield(c, nil) {
				return nil
			}
		}
		e, err := k.lock(ctx)
		if err != nil {
			return err
		}
		if at < e.kv.changes.dropped {
			e.mu.Unlock()
			return fmt.Errorf("more than %d changes behind: watch again", changesMax)
		}
		pending = slices.DeleteFunc(slices.Clone(e.kv.changes.list[at-e.kv.changes.dropped:]), func(p change) bool {
			return !strings.HasPrefix(p.key, prefix) || p.rev <= from
		})
		at = e.kv.changes.dropped + uint64(len(e.kv.changes.list))
		var timer <-chan time.Time
		if len(e.kv.expiries) > 0 {
			timer = time.After(time.Until(e.kv.expiries[0].at))
		}
		e.mu.Unlock()
		if len(pending) > 0 {
			continue
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
		}
	}
}

// presentLocked lists the present state as changes, in the order of revisions.
func (e *Engine) presentLocked(prefix string, from store.Rev) []change {
	var found []change
	for key, x := range e.kv.entries {
		if strings.HasPrefix(key, prefix) && x.rev > from {
			found = append(found, change{key: key, rev: x.rev})
		}
	}
	slices.SortFunc(found, func(a, b change) int { return cmp.Compare(a.rev, b.rev) })
	return found
}

// current returns what a change is now; false if a later change will be seen.
func (e *Engine) current(p change) (store.Change, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x, ok := e.kv.entries[p.key]
	if p.deleted {
		return store.Change{Entry: store.Entry{Key: p.key, Rev: p.rev}, Deleted: true}, !ok
	}
	return store.Change{Entry: x.as(p.key)}, ok && x.rev == p.rev
}

func (e *Engine) endWatch(wake chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiting, wake)
	if e.kv.watchers--; e.kv.watchers <= 0 {
		e.kv.watchers, e.kv.changes = 0, changes{}
	}
}
