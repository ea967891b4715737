// Package backup writes what an engine holds into one file, and brings it back.
// Begin with [Write] and [Restore]; docs/backup.md gives the file's bytes.
//
// The file is the store as it would be found after the end of the process at one
// moment: all keys of the KV as the latest checkpoint left them, and the records of
// the journal since.
package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"fairlead/store"
)

// The two keys that this package knows of, see docs/design/journal.md.
const (
	// checkpointKey holds two u64: the place of the last record that the checkpoint
	// covers, and the number of the last op.
	checkpointKey = "node/ckpt"
	// unfinishedKey is there while a restore is under way.
	unfinishedKey = "node/restore"
)

const (
	// pageBytes is about what is asked of the KV at a time.
	pageBytes = 4 << 20
	// pageKeys is how many keys that is at most.
	pageKeys = 1000
)

// Head is what a backup says of its making.
type Head struct {
	// Made is when it was begun: what had been acknowledged by then is in it.
	Made    time.Time `json:"made"`
	Program string    `json:"program"` // the version that made it
}

// Summary is what a backup holds.
type Summary struct {
	Head
	Keys    uint64 `json:"keys"`
	Records uint64 `json:"records"`
	Bytes   int64  `json:"bytes"` // of the backup, before encryption
}

// Progress is told again and again what has been done so far.
type Progress func(Summary)

// Write writes what e holds to w: the KV, and the journal's records after the place
// from up to its present end. The caller sees to it that neither is checkpointed or
// trimmed meanwhile. Places are written as those of the journal that [Restore] will
// begin.
func Write(ctx context.Context, w io.Writer, e store.Engine, from store.Pos, head Head, progress Progress) (Summary, error) {
	unfinished, err := Unfinished(ctx, e)
	if err != nil {
		return Summary{}, fmt.Errorf("back up: %w", err)
	}
	if unfinished {
		return Summary{}, fmt.Errorf("back up: %w", ErrUnfinished)
	}
	b := newWriter(w, head, progress)
	if err := b.keys(ctx, e.KV()); err != nil {
		return b.sum, fmt.Errorf("back up: %w", err)
	}
	if err := b.records(ctx, e.Journal(), from); err != nil {
		return b.sum, fmt.Errorf("back up the journal: %w", err)
	}
	if err := b.end(); err != nil {
		return b.sum, fmt.Errorf("back up: %w", err)
	}
	return b.sum, nil
}

// keys writes the KV, page by page: with a million Sessions it does not fit in memory.
func (b *writer) keys(ctx context.Context, kv store.KV) error {
	after, limit := "", 16
	for {
		page, err := kv.List(ctx, "", after, limit)
		if err != nil {
			return err
		}
		bytes := 0
		for _, e := range page {
			if e.Key == checkpointKey {
				e.Value = atStart(e.Value)
			}
			if err := b.key(e.Key, e.Value); err != nil {
				return err
			}
			bytes += len(e.Key) + len(e.Value)
			after = e.Key
		}
		if len(page) < limit {
			return b.flush()
		}
		limit = min(pageKeys, max(1, pageBytes*len(page)/bytes))
	}
}

// atStart is the value of checkpointKey for a journal that begins after the checkpoint.
func atStart(value []byte) []byte {
	if len(value) < 8 {
		return value
	}
	return append(make([]byte, 8), value[8:]...)
}

func (b *writer) records(ctx context.Context, j store.Journal, from store.Pos) error {
	first, next, err := j.Span(ctx, j.Own())
	if err != nil {
		return err
	}
	if from+1 >= next {
		return nil
	}
	if first > from+1 {
		return fmt.Errorf("it begins with record %d, expected %d: %w", first, from+1, store.ErrDamaged)
	}
	for rec, err := range j.Tail(ctx, j.Own(), from+1) {
		if err != nil {
			return err
		}
		if err := b.record(rec.Data); err != nil {
			return err
		}
		if rec.Pos == next-1 {
			return b.flush()
		}
	}
	return fmt.Errorf("it ends before record %d: %w", next-1, store.ErrDamaged)
}

// Covered is the place in e's journal that its latest checkpoint covers: where a
// backup of an engine that nobody works on begins.
func Covered(ctx context.Context, e store.Engine) (store.Pos, error) {
	got, err := e.KV().Get(ctx, checkpointKey)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(got.Value) < 8 {
		return 0, fmt.Errorf("%q has %d bytes, expected 16: %w", checkpointKey, len(got.Value), store.ErrDamaged)
	}
	return store.Pos(binary.BigEndian.Uint64(got.Value)), nil
}
