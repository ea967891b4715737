package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// expireMax is how many keys one change of the housekeeping deletes, so that
	// others get their turn.
	expireMax = 1000
	sizeEvery = time.Second
)

func expiryKey(at int64, key string) []byte {
	b := make([]byte, 0, 9+len(key))
	b = append(b, spaceExpiry)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	return append(b, key...)
}

// expireAt notes that something expires then.
func (k *kv) expireAt(at int64) {
	for {
		old := k.expires.Load()
		if old <= at || k.expires.CompareAndSwap(old, at) {
			return
		}
	}
}

// housekeep deletes what has expired, opens a KV that has failed, and looks at its
// size.
func (k *kv) housekeep(now time.Time) {
	// An error is shown by Stats, and this is tried again a moment later.
	_ = k.use(context.Background(), true, func(inst *instance) error {
		if now.Sub(k.sized) >= sizeEvery {
			k.sized = now
			k.bytes.Store(int64(inst.db.Metrics().DiskSpaceUsage()))
		}
		for k.expires.Load() <= now.UnixMilli() {
			more, err := k.expire(inst, now)
			if err != nil || !more {
				return err
			}
		}
		return nil
	})
}

// expire deletes up to expireMax entries. It doesn't wait for the disk: an expired
// entry is seen by nobody, before and after a crash.
func (k *kv) expire(inst *instance, now time.Time) (more bool, err error) {
	batch, err := k.apply(inst, pebble.NoSync, func(c *change) error {
		it, err := inst.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceExpiry}, UpperBound: []byte{spaceExpiry + 1}})
		if err != nil {
			return err
		}
		next := int64(math.MaxInt64)
		n := 0
		for ok := it.First(); ok && err == nil; ok = it.Next() {
			at := int64(binary.BigEndian.Uint64(it.Key()[1:]))
			if at > now.UnixMilli() || n == expireMax {
				next = at
				break
			}
			n++
			err = c.expire(at, string(it.Key()[9:]))
		}
		more = n == expireMax
		k.expires.Store(next)
		return errors.Join(err, it.Error(), it.Close())
	})
	if err != nil {
		k.expires.Store(0) // look again the next time
		return false, err
	}
	if batch == nil {
		return false, nil
	}
	return more, batch.Close()
}

// expire deletes an entry that was to expire at that time, unless it has been
// replaced since.
func (c *change) expire(at int64, key string) error {
	if err := c.batch.Delete(expiryKey(at, key), nil); err != nil {
		return err
	}
	b, closer, err := c.inst.db.Get(userKey(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	v, err := parseValue(b)
	if err != nil || v.expires != at {
		return err
	}
	return c.delete(key)
}
