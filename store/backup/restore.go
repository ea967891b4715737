package backup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"fairlead/store"
)

// Errors that callers act on.
var (
	// ErrNotEmpty says that an engine that is to be restored into holds something.
	ErrNotEmpty = errors.New("it is not empty")
	// ErrUnfinished says that a restore has begun and not ended: what is there is a
	// part of a backup.
	ErrUnfinished = errors.New("a restore into it was begun and not finished: empty it and restore again")
)

// Verify reads a backup to its end and compares all checksums.
func Verify(ctx context.Context, r io.Reader, progress Progress) (Summary, error) {
	sum, err := read(&interruptible{ctx, r}, visitor{}, progress)
	if err != nil {
		return sum, fmt.Errorf("verify the backup: %w", err)
	}
	return sum, nil
}

// Target is where a backup is restored.
type Target struct {
	Engine store.Engine // empty
	// Create makes a file beside the store. The names are those of [File], in their
	// order, each once; whoever does not know one returns an error. Its content is
	// complete once it is closed without an error.
	Create func(name string, secret bool) (io.WriteCloser, error)
	// Commit makes the files durable. It is called last, when the whole backup has been
	// found good; nil: there is nothing to do.
	Commit func(Summary) error
}

// Restore puts what a backup holds into an engine, which is empty, and into files. Until
// it returns without an error, the engine is [Unfinished], even after the loss of power:
// half a backup is not to be taken for a store.
func Restore(ctx context.Context, r io.Reader, to Target, progress Progress) (Summary, error) {
	if err := begin(ctx, to.Engine); err != nil {
		return Summary{}, fmt.Errorf("restore: %w", err)
	}
	sum, err := read(&interruptible{ctx, r}, visitor{
		keys: func(ops []store.Op) error { return to.Engine.KV().Batch(ctx, ops) },
		record: func(data []byte) error {
			_, err := to.Engine.Journal().Append(ctx, data)
			return err
		},
		create: to.Create,
	}, progress)
	if err == nil && to.Commit != nil {
		err = to.Commit(sum)
	}
	if err == nil {
		err = to.Engine.KV().Delete(ctx, unfinishedKey, store.PutOptions{})
	}
	if err != nil {
		return sum, fmt.Errorf("restore: %w", err)
	}
	return sum, nil
}

// begin demands that e is empty, and marks it as unfinished.
func begin(ctx context.Context, e store.Engine) error {
	found, err := e.KV().List(ctx, "", "", 1)
	if err != nil {
		return err
	}
	first, next, err := e.Journal().Span(ctx, e.Journal().Own())
	if err != nil {
		return err
	}
	if len(found) > 0 || first != next || next != 1 {
		return ErrNotEmpty
	}
	_, err = e.KV().Put(ctx, unfinishedKey, nil, store.PutOptions{})
	return err
}

// Unfinished reports whether a restore into e has begun and not ended. Nothing may
// run on such an engine.
func Unfinished(ctx context.Context, e store.Engine) (bool, error) {
	_, err := e.KV().Get(ctx, unfinishedKey)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
