package pebble

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// tail is one reader of the journal.
type tail struct {
	j     *journal
	at    store.Pos // the next record
	first store.Pos // of the segment that file is
	head  segmentHead
	file  vfs.File // nil: none is open
	off   int64    // of the next record in it
}

// Tail implements [store.Journal]. A place beyond the next one is an error: whoever
// knows of such a record has read it here, and the journal has lost it since.
func (j *journal) Tail(ctx context.Context, id store.JournalID, from store.Pos) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		t := &tail{j: j, at: max(from, 1)}
		defer t.close()
		for {
			rec, err := t.next(ctx, id)
			if err != nil {
				yield(store.Record{}, fmt.Errorf("tail %s from %d: %w", id, t.at, err))
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// next waits for the next record and reads it.
func (t *tail) next(ctx context.Context, id store.JournalID) (store.Record, error) {
	for {
		if err := t.j.checkCall(ctx, id); err != nil {
			return store.Record{}, err
		}
		seg, changed, err := t.j.find(t.at)
		if err != nil {
			return store.Record{}, err
		}
		if changed == nil {
			return t.read(seg)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// find returns the segment of a record, or a channel that is closed at the next
// change if the record isn't written yet.
func (j *journal) find(at store.Pos) (segment, <-chan struct{}, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch first := j.firstLocked(); {
	case j.closed:
		return segment{}, nil, store.ErrClosed
	case at < first:
		return segment{}, nil, fmt.Errorf("the first record is %d: %w", first, store.ErrTrimmed)
	case at > j.next:
		return segment{}, nil, fmt.Errorf("the journal ends with record %d: those up to %d are missing: %w", j.next-1, at-1, store.ErrDamaged)
	case at == j.next:
		if j.waiting++; j.changed == nil {
			j.changed = make(chan struct{})
		}
		return segment{}, j.changed, nil
	}
	i := len(j.segments) - 1
	for j.segments[i].first > at {
		i--
	}
	return j.segments[i], nil, nil
}

// read reads the record at, which is in seg.
func (t *tail) read(seg segment) (store.Record, error) {
	rec, err := t.readFrom(seg)
	if err == nil {
		t.at++
		return rec, nil
	}
	t.close()
	// A segment that was trimmed in the meantime is gone, or holds other records.
	if _, _, trimmed := t.j.find(t.at); trimmed != nil {
		err = trimmed
	}
	return store.Record{}, err
}

func (t *tail) readFrom(seg segment) (store.Record, error) {
	if t.file == nil || t.first != seg.first || t.head != seg.head {
		if err := t.open(seg); err != nil {
			return store.Record{}, err
		}
	}
	for {
		f, err := t.readHead()
		if err != nil {
			return store.Record{}, err
		}
		off := t.off
		t.off += frameSize(int(f.n))
		if f.pos < t.at {
			continue // on the way to the first one
		}
		if f.pos > t.at || f.kind != kindRecord {
			return store.Record{}, t.damaged(off, fmt.Sprintf("the number %d, expected a record", f.pos))
		}
		data := make([]byte, f.n)
		if _, err := t.file.ReadAt(data, off+frameHead); err != nil && f.n > 0 {
			return store.Record{}, t.damaged(off, err.Error())
		}
		if sum := crc32.Checksum(data, castagnoli); sum != f.sum {
			return store.Record{}, t.damaged(off, fmt.Sprintf("checksum %08x of %d bytes, expected %08x", sum, f.n, f.sum))
		}
		return store.Record{Pos: f.pos, Data: data}, nil
	}
}

func (t *tail) open(seg segment) error {
	t.close()
	file, err := t.j.fs.Open(t.j.path(segmentName(seg.first)))
	if err != nil {
		return err
	}
	t.file, t.first, t.head, t.off = file, seg.first, seg.head, headSize
	return nil
}

func (t *tail) readHead() (frame, error) {
	var b [frameHead]byte
	if _, err := t.file.ReadAt(b[:], t.off); err != nil && !errors.Is(err, io.EOF) {
		return frame{}, t.damaged(t.off, err.Error())
	}
	f, ok := parseFrame(b[:], t.head.seed)
	if !ok {
		return frame{}, t.damaged(t.off, badHead)
	}
	return f, nil
}

func (t *tail) damaged(off int64, what string) error {
	return fmt.Errorf("%s at offset %d, record %d: %s: %w", relative(segmentName(t.first)), off, t.at, what, store.ErrDamaged)
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close() // it was only read
		t.file = nil
	}
}
