package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"fairlead/store"
)

var errAlone = errors.New("a single node has nobody to speak to")

// journal holds the records [first, first+len(records)).
type journal struct {
	first    store.Pos
	records  [][]byte
	bytes    int64
	appends  uint64
	appended uint64
}

func (j *journal) next() store.Pos { return j.first + store.Pos(len(j.records)) }

// journalOf is an Engine as a store.Journal.
type journalOf Engine

func (j *journalOf) Own() store.JournalID { return Own }

func (j *journalOf) Journals(ctx context.Context) ([]store.JournalID, error) {
	e := (*Engine)(j)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.checkLocked(ctx); err != nil {
		return nil, err
	}
	return []store.JournalID{Own}, nil
}

func (j *journalOf) Append(ctx context.Context, rec []byte) (store.Pos, error) {
	e := (*Engine)(j)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.checkLocked(ctx); err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	at := e.journal.next()
	e.journal.records = append(e.journal.records, bytes.Clone(rec))
	e.journal.bytes += int64(len(rec))
	e.journal.appends++
	e.journal.appended += uint64(len(rec))
	e.wakeLocked()
	return at, nil
}

func (j *journalOf) Tail(ctx context.Context, id store.JournalID, from store.Pos) iter.Seq2[store.Record, error] {
	e := (*Engine)(j)
	return func(yield func(store.Record, error) bool) {
		e.mu.Lock()
		wake := e.waiterLocked()
		e.mu.Unlock()
		defer e.forget(wake)
		for at := max(from, 1); ; {
			rec, err := e.record(ctx, id, at)
			switch {
			case err != nil:
				yield(store.Record{}, fmt.Errorf("tail %s from %d: %w", id, at, err))
				return
			case rec != nil:
				if !yield(store.Record{Pos: at, Data: rec}, nil) {
					return
				}
				at++
			default:
				select {
				case <-wake:
				case <-ctx.Done():
				}
			}
		}
	}
}

// record returns a copy of a record, nil if it isn't written yet.
func (e *Engine) record(ctx context.Context, id store.JournalID, at store.Pos) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.checkJournalLocked(ctx, id); err != nil {
		return nil, err
	}
	if at < e.journal.first {
		return nil, fmt.Errorf("the first record is %d: %w", e.journal.first, store.ErrTrimmed)
	}
	switch next := e.journal.next(); {
	case at > next:
		// Whoever knows of such a record has read it, and it is lost.
		return nil, fmt.Errorf("the journal ends with record %d: those up to %d are missing: %w", next-1, at-1, store.ErrDamaged)
	case at == next:
		return nil, nil
	}
	return append([]byte{}, e.journal.records[at-e.journal.first]...), nil
}

func (j *journalOf) Trim(ctx context.Context, id store.JournalID, upTo store.Pos) error {
	e := (*Engine)(j)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.checkJournalLocked(ctx, id); err != nil {
		return fmt.Errorf("trim %s up to %d: %w", id, upTo, err)
	}
	for len(e.journal.records) > 0 && e.journal.first <= upTo {
		e.journal.bytes -= int64(len(e.journal.records[0]))
		e.journal.records[0] = nil
		e.journal.records = e.journal.records[1:]
		e.journal.first++
	}
	e.wakeLocked() // a Tail that stood at a trimmed record must say so
	return nil
}

func (j *journalOf) Span(ctx context.Context, id store.JournalID) (first, next store.Pos, err error) {
	e := (*Engine)(j)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.checkJournalLocked(ctx, id); err != nil {
		return 0, 0, fmt.Errorf("span of %s: %w", id, err)
	}
	return e.journal.first, e.journal.next(), nil
}

func (e *Engine) checkJournalLocked(ctx context.Context, id store.JournalID) error {
	if err := e.checkLocked(ctx); err != nil {
		return err
	}
	if id != Own {
		return fmt.Errorf("no journal %q here, only %q: %w", id, Own, store.ErrNotFound)
	}
	return nil
}
