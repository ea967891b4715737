package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

const (
	keyMax   = 64<<10 + 64 // bytes; beyond it a call is refused
	valueMax = 1 << 30     // bytes; beyond it a call is refused
	batchMax = 2 << 30     // bytes of keys and values; Pebble can't take 4 GiB
)

// The first byte of a key in Pebble says what it is.
//
//	k KEY            revision (8 bytes), when it expires (8 bytes, Unix
//	                 milliseconds, 0: never), value
//	x EXPIRES KEY    an entry of KEY expires then, unless it has been replaced
//	r                the last revision
const (
	spaceKey    = 'k'
	spaceExpiry = 'x'
	spaceRev    = 'r'
	valueHead   = 16
)

// kv is a store.KV on Pebble.
type kv struct {
	fs     vfs.FS
	dir    string
	logger *slog.Logger
	write  *pebble.WriteOptions
	space  *space

	// writing is held while a change is decided and given to Pebble, so that
	// revisions grow in the order in which changes become visible. It is not held
	// while the change becomes durable: those that wait share an fsync.
	writing sync.Mutex
	rev     store.Rev // the last one given out; guarded by writing

	mu      sync.Mutex // guards those up to closed; no I/O is done under it
	inst    *instance  // nil: out of service, or closed
	reader  *instance  // what is read while inst is nil; nil: nothing can be read
	retired *cutoff    // of the instance before
	failure error
	opening bool // somebody tries to open it anew
	tried   time.Time
	closed  bool

	every  atomic.Int64   // reopenEvery
	ending sync.WaitGroup // an opening, and instances that have been given up

	feed    feed
	written atomic.Uint64
	bytes   atomic.Int64  // on disk, when sized
	sized   time.Time     // housekeeping's own
	expires atomic.Int64  // nothing expires before; Unix milliseconds
	stored  atomic.Uint64 // the revision found at the last opening
}

func openKV(o Options, dir string, space *space) (*kv, error) {
	if err := makeDir(o.FS, dir); err != nil {
		return nil, err
	}
	k := &kv{fs: o.FS, dir: dir, logger: o.Logger, write: pebble.Sync, space: space}
	if o.Durability == OS {
		k.write = pebble.NoSync
	}
	k.every.Store(int64(reopenEvery))
	inst, err := k.openInstance()
	if err != nil {
		return nil, err
	}
	if err := k.load(inst); err != nil {
		return nil, errors.Join(err, inst.end())
	}
	k.inst = inst
	return k, nil
}

// load reads the last revision. Those given out before a failure are never given
// out again by this process, even if their changes are lost: whoever has read such
// a key must not succeed with its revision.
func (k *kv) load(inst *instance) error {
	b, closer, err := inst.db.Get([]byte{spaceRev})
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		k.stored.Store(0)
		return nil
	case err != nil:
		return fmt.Errorf("read the last revision: %w", damagedIf(err))
	}
	defer closer.Close()
	if len(b) != 8 {
		return fmt.Errorf("the last revision has %d bytes, expected 8: %w", len(b), store.ErrDamaged)
	}
	k.stored.Store(binary.BigEndian.Uint64(b))
	k.expires.Store(0)
	return nil
}

func (k *kv) close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.feed.interrupt()
	k.ending.Wait()
	k.mu.Lock()
	inst, reader := k.inst, k.reader
	k.inst, k.reader = nil, nil
	k.mu.Unlock()
	if reader != nil {
		reader.end() // it was only read
	}
	if inst == nil {
		return nil
	}
	if err := inst.end(); err != nil {
		return fmt.Errorf("close the KV: %w", err)
	}
	return nil
}

func (k *kv) stats(s *store.Stats) {
	s.KVBytes = k.bytes.Load()
	s.WrittenBytes += k.written.Load()
	if err := k.healthy(); err != nil && s.Err == nil {
		s.Err = err
	}
}

// healthy says why nothing can be changed at present.
func (k *kv) healthy() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return store.ErrClosed
	}
	err := k.failure
	if k.inst != nil {
		err = k.inst.failed()
	}
	if err != nil {
		return fmt.Errorf("the KV is out of service: %w", err)
	}
	return nil
}

// Get implements [store.KV].
func (k *kv) Get(ctx context.Context, key string) (e store.Entry, err error) {
	err = k.use(ctx, false, func(inst *instance) error {
		e, err = get(inst.db, key, time.Now())
		return err
	})
	if err != nil {
		return store.Entry{}, fmt.Errorf("get %q: %w", key, err)
	}
	return e, nil
}

// get reads a key; an expired one is not there.
func get(from pebble.Reader, key string, now time.Time) (store.Entry, error) {
	b, closer, err := from.Get(userKey(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return store.Entry{}, store.ErrNotFound
	}
	if err != nil {
		return store.Entry{}, err
	}
	defer closer.Close()
	v, err := parseValue(b)
	if err != nil {
		return store.Entry{}, err
	}
	if v.expired(now) {
		return store.Entry{}, store.ErrNotFound
	}
	return store.Entry{Key: key, Value: append([]byte{}, v.data...), Rev: v.rev}, nil
}

func userKey(key string) []byte {
	b := make([]byte, 0, 1+len(key))
	return append(append(b, spaceKey), key...)
}

type value struct {
	rev     store.Rev
	expires int64 // Unix milliseconds; 0: never
	data    []byte
}

func (v value) expired(now time.Time) bool { return v.expires != 0 && v.expires <= now.UnixMilli() }

func parseValue(b []byte) (value, error) {
	if len(b) < valueHead {
		return value{}, fmt.Errorf("a value of %d bytes, expected at least %d: %w", len(b), valueHead, store.ErrDamaged)
	}
	return value{
		rev:     store.Rev(binary.BigEndian.Uint64(b)),
		expires: int64(binary.BigEndian.Uint64(b[8:])),
		data:    b[valueHead:],
	}, nil
}

// List implements [store.KV].
func (k *kv) List(ctx context.Context, prefix, after string, limit int) (found []store.Entry, err error) {
	err = k.use(ctx, false, func(inst *instance) error {
		found, err = list(ctx, inst.db, prefix, after, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	return found, nil
}

func list(ctx context.Context, from pebble.Reader, prefix, after string, limit int) ([]store.Entry, error) {
	lower := userKey(prefix)
	if after >= prefix {
		lower = append(userKey(after), 0)
	}
	it, err := from.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: behind(userKey(prefix))})
	if err != nil {
		return nil, err
	}
	var found []store.Entry
	now := time.Now()
	for ok := it.First(); ok && len(found) < limit; ok = it.Next() {
		b, err := it.ValueAndErr()
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		v, err := parseValue(b)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		if !v.expired(now) {
			found = append(found, store.Entry{Key: string(it.Key()[1:]), Value: append([]byte{}, v.data...), Rev: v.rev})
		}
	}
	return found, errors.Join(it.Error(), it.Close())
}

// behind is the first key after all that begin with prefix.
func behind(prefix []byte) []byte {
	b := bytes.Clone(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}

// Put implements [store.KV].
func (k *kv) Put(ctx context.Context, key string, data []byte, o store.PutOptions) (rev store.Rev, err error) {
	err = k.change(ctx, []store.Op{{Key: key, Value: data}}, func(c *change) error {
		if err := c.demand(key, o); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err := c.put(key, data, o.TTL)
		rev = c.rev
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("put %q: %w", key, err)
	}
	return rev, nil
}

// Delete implements [store.KV].
func (k *kv) Delete(ctx context.Context, key string, o store.PutOptions) error {
	err := k.change(ctx, []store.Op{{Key: key, Delete: true}}, func(c *change) error {
		if _, err := get(c.inst.db, key, c.now); err != nil {
			return err
		}
		if err := c.demand(key, o); err != nil {
			return err
		}
		return c.delete(key)
	})
	if err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

// Batch implements [store.KV].
func (k *kv) Batch(ctx context.Context, ops []store.Op) error {
	if len(ops) == 0 {
		return nil
	}
	err := k.change(ctx, ops, func(c *change) error {
		for _, op := range ops {
			if err := c.do(op); err != nil {
				return fmt.Errorf("%q: %w", op.Key, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("batch of %d: %w", len(ops), err)
	}
	return nil
}

// checkOps refuses what is too large, and what adds to a full disk.
func (k *kv) checkOps(ops []store.Op) error {
	total, adds := 0, false
	for _, op := range ops {
		if len(op.Key) == 0 || len(op.Key) > keyMax {
			return fmt.Errorf("a key of %d bytes, expected 1 to %d", len(op.Key), keyMax)
		}
		if len(op.Value) > valueMax {
			return fmt.Errorf("a value of %d bytes, expected at most %d", len(op.Value), valueMax)
		}
		total += len(op.Key) + len(op.Value)
		adds = adds || !op.Delete
	}
	if total > batchMax {
		return fmt.Errorf("%d bytes in one batch, expected at most %d", total, batchMax)
	}
	if adds {
		return k.space.room(int64(total))
	}
	return nil
}

// change is one write under way.
type change struct {
	k     *kv
	inst  *instance
	batch *pebble.Batch
	now   time.Time
	rev   store.Rev
	news  []news // for the watchers, if there are any
	watch bool
}

// change lets f fill a batch, and makes it durable.
func (k *kv) change(ctx context.Context, ops []store.Op, f func(*change) error) error {
	if err := k.checkOps(ops); err != nil {
		return err
	}
	return k.use(ctx, true, func(inst *instance) error {
		batch, err := k.apply(inst, k.write, f)
		if err != nil || batch == nil {
			return err
		}
		if k.write.Sync {
			if err := batch.SyncWait(); err != nil {
				return err
			}
		}
		return batch.Close()
	})
}

// apply decides on a change and gives it to Pebble, without waiting for the disk.
// The batch is nil if there is nothing to change.
func (k *kv) apply(inst *instance, o *pebble.WriteOptions, f func(*change) error) (*pebble.Batch, error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.rev = max(k.rev, store.Rev(k.stored.Load()))
	c := &change{k: k, inst: inst, now: time.Now(), rev: k.rev, watch: k.feed.watched()}
	if c.watch {
		c.batch = inst.db.NewIndexedBatch() // deletions look at what is there
	} else {
		c.batch = inst.db.NewBatch()
	}
	if err := f(c); err != nil || c.batch.Empty() {
		return nil, errors.Join(err, c.batch.Close())
	}
	var rev [8]byte
	binary.BigEndian.PutUint64(rev[:], uint64(c.rev))
	if err := c.batch.Set([]byte{spaceRev}, rev[:], nil); err != nil {
		return nil, err
	}
	k.rev = c.rev
	if err := commit(inst.db, c.batch, o); err != nil {
		return nil, err
	}
	k.feed.publish(c.news)
	return c.batch, nil
}

func commit(db *pebble.DB, b *pebble.Batch, o *pebble.WriteOptions) error {
	if o.Sync {
		return db.ApplyNoSyncWait(b, o)
	}
	return db.Apply(b, o)
}

// demand checks the conditions.
func (c *change) demand(key string, o store.PutOptions) error {
	if !o.If {
		return nil
	}
	e, err := get(c.inst.db, key, c.now)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if e.Rev != o.IfRev {
		return fmt.Errorf("revision %d, expected %d: %w", e.Rev, o.IfRev, store.ErrRevision)
	}
	return err
}

func (c *change) do(op store.Op) error {
	switch {
	case op.Delete && op.DeleteTo != "":
		return c.deleteRange(op.Key, op.DeleteTo)
	case op.Delete:
		return c.deleteIfThere(op.Key)
	default:
		return c.put(op.Key, op.Value, 0)
	}
}

func (c *change) put(key string, data []byte, ttl time.Duration) error {
	c.rev++
	var expires int64
	if ttl > 0 {
		expires = c.now.Add(ttl).UnixMilli()
		if err := c.batch.Set(expiryKey(expires, key), nil, nil); err != nil {
			return err
		}
		c.k.expireAt(expires)
	}
	d := c.batch.SetDeferred(1+len(key), valueHead+len(data))
	d.Key[0] = spaceKey
	copy(d.Key[1:], key)
	binary.BigEndian.PutUint64(d.Value, uint64(c.rev))
	binary.BigEndian.PutUint64(d.Value[8:], uint64(expires))
	copy(d.Value[valueHead:], data)
	c.tell(key, false)
	return d.Finish()
}

func (c *change) delete(key string) error {
	c.rev++
	c.tell(key, true)
	return c.batch.Delete(userKey(key), nil)
}

// deleteIfThere looks only if somebody watches: who doesn't know of the key must
// not be told of its end.
func (c *change) deleteIfThere(key string) error {
	if c.watch {
		if _, err := get(c.batch, key, c.now); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		}
	}
	return c.delete(key)
}

func (c *change) deleteRange(from, to string) error {
	if to <= from {
		return nil
	}
	if c.watch {
		if err := c.tellRange(from, to); err != nil {
			return err
		}
	}
	c.rev++
	return c.batch.DeleteRange(userKey(from), userKey(to), nil)
}

func (c *change) tellRange(from, to string) error {
	it, err := c.batch.NewIter(&pebble.IterOptions{LowerBound: userKey(from), UpperBound: userKey(to)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		c.rev++
		c.tell(string(it.Key()[1:]), true)
	}
	return errors.Join(it.Error(), it.Close())
}

func (c *change) tell(key string, deleted bool) {
	if c.watch {
		c.news = append(c.news, news{key: key, rev: c.rev, deleted: deleted})
	}
}
