package pebble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"fairlead/store"
)

const (
	// newsMax and newsBytesMax are how many changes, and bytes of their keys, a
	// watcher may be behind; it then gets an error.
	newsMax      = 1 << 16
	newsBytesMax = 16 << 20
)

// news is a change, for the watchers. It holds no value: a watcher takes the value
// that the key has when its turn comes, and passes over a change that a later one
// has replaced.
type news struct {
	key     string
	rev     store.Rev
	deleted bool
}

// feed are the latest changes. It is empty while nobody watches.
type feed struct {
	mu       sync.Mutex // guards all below
	watchers int
	list     []news
	bytes    int
	dropped  uint64 // changes that once stood before those in list
	changed  chan struct{}
	breaks   int // interruptions
}

func (f *feed) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watchers > 0
}

func (f *feed) publish(n []news) {
	if len(n) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, n...)
	for _, x := range n {
		f.bytes += len(x.key)
	}
	if len(f.list) > 2*newsMax || f.bytes > 2*newsBytesMax {
		f.dropLocked()
	}
	f.wakeLocked()
}

// dropLocked forgets all but the latest changes.
func (f *feed) dropLocked() {
	n := 0
	for len(f.list)-n > newsMax || f.bytes > newsBytesMax {
		f.bytes -= len(f.list[n].key)
		n++
	}
	f.dropped += uint64(n)
	f.list = slices.Clone(f.list[n:])
}

func (f *feed) wakeLocked() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// interrupt ends every Watch: what was shown may not have become durable.
func (f *feed) interrupt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.breaks++
	f.wakeLocked()
}

// A reader is one Watch's place in the feed.
type reader struct {
	f      *feed
	prefix string
	from   store.Rev
	at     uint64
	breaks int
}

func (f *feed) subscribe(prefix string, from store.Rev) *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers++
	return &reader{f: f, prefix: prefix, from: from, at: f.dropped + uint64(len(f.list)), breaks: f.breaks}
}

func (r *reader) close() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if r.f.watchers--; r.f.watchers == 0 {
		r.f.dropped += uint64(len(r.f.list))
		r.f.list, r.f.bytes = nil, 0
	}
}

// next returns what is new, or a channel that is closed at the next change.
func (r *reader) next() ([]news, <-chan struct{}, error) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.breaks != r.breaks {
		return nil, nil, errors.New("the KV was interrupted: watch again")
	}
	if r.at < f.dropped {
		return nil, nil, fmt.Errorf("more than %d changes or %d bytes of keys behind: watch again", newsMax, newsBytesMax)
	}
	var found []news
	for _, n := range f.list[r.at-f.dropped:] {
		if n.rev > r.from && strings.HasPrefix(n.key, r.prefix) {
			found = append(found, n)
		}
	}
	r.at = f.dropped + uint64(len(f.list))
	if len(found) > 0 {
		return found, nil, nil
	}
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return nil, f.changed, nil
}

// Watch implements [store.KV]. It also ends with an error when the KV fails and is
// opened anew.
func (k *kv) Watch(ctx context.Context, prefix string, from store.Rev) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		if err := k.watch(ctx, prefix, from, yield); err != nil {
			yield(store.Change{}, fmt.Errorf("watch %q: %w", prefix, err))
		}
	}
}

// watch returns nil once yield has returned false.
func (k *kv) watch(ctx context.Context, prefix string, from store.Rev, yield func(store.Change, error) bool) error {
	r, pending, err := k.present(ctx, prefix, from)
	if err != nil {
		return err
	}
	defer r.close()
	for {
		for _, n := range pending {
			c, ok, err := k.current(ctx, n)
			if err != nil {
				return err
			}
			if ok && !yield(c, nil) {
				return nil
			}
		}
		if err := k.open(ctx); err != nil {
			return err
		}
		var changed <-chan struct{}
		if pending, changed, err = r.next(); err != nil {
			return errors.Join(k.open(ctx), err)
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// open says why a Watch can't go on.
func (k *kv) open(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}

// present subscribes to the feed and lists what is there, in the order of
// revisions.
func (k *kv) present(ctx context.Context, prefix string, from store.Rev) (r *reader, found []news, err error) {
	err = k.use(ctx, true, func(inst *instance) error {
		r, found, err = k.subscribe(inst, prefix, from)
		return err
	})
	if err != nil && r != nil {
		r.close()
	}
	return r, found, err
}

func (k *kv) subscribe(inst *instance, prefix string, from store.Rev) (*reader, []news, error) {
	k.writing.Lock() // no change falls between the feed and the snapshot
	r := k.feed.subscribe(prefix, from)
	snapshot := inst.db.NewSnapshot()
	k.writing.Unlock()
	found, err := scanRevs(snapshot, prefix, from)
	return r, found, errors.Join(err, snapshot.Close())
}

// scanRevs finds the keys with later revisions than from.
func scanRevs(in pebble.Reader, prefix string, from store.Rev) ([]news, error) {
	it, err := in.NewIter(&pebble.IterOptions{LowerBound: userKey(prefix), UpperBound: behind(userKey(prefix))})
	if err != nil {
		return nil, err
	}
	var found []news
	now := time.Now()
	for ok := it.First(); ok; ok = it.Next() {
		b, err := it.ValueAndErr()
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		v, err := parseValue(b)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		if v.rev > from && !v.expired(now) {
			found = append(found, news{key: string(it.Key()[1:]), rev: v.rev})
		}
	}
	slices.SortFunc(found, func(a, b news) int { return cmp.Compare(a.rev, b.rev) })
	return found, errors.Join(it.Error(), it.Close())
}

// current returns what a change is now; false if a later one will be seen.
func (k *kv) current(ctx context.Context, n news) (store.Change, bool, error) {
	e, err := k.Get(ctx, n.key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Change{Entry: store.Entry{Key: n.key, Rev: n.rev}, Deleted: true}, n.deleted, nil
	case err != nil:
		return store.Change{}, false, err
	}
	return store.Change{Entry: e}, !n.deleted && e.Rev == n.rev, nil
}
