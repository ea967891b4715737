// Package store says what differs between one node and a cluster, as three small
// interfaces: a [Journal] for what must survive before anyone is told so, a [KV]
// for what is written at leisure, a [Bus] for nodes to speak to each other. Begin
// with [Engine]. Nothing above these interfaces knows which engine runs.
package store

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Engine is one place where a node keeps things.
type Engine interface {
	Journal() Journal
	KV() KV
	Bus() Bus
	// Stats says how the engine fares. It does no I/O.
	Stats() Stats
	// Close waits for calls under way and releases everything. A closed Engine
	// answers ErrClosed.
	Close() error
}

// Errors that callers act on. Engines wrap them with what happened and where.
var (
	ErrClosed   = errors.New("the store is closed")
	ErrNotFound = errors.New("no such key")
	// ErrRevision says that the key has another revision than the caller expects.
	ErrRevision = errors.New("the key has changed meanwhile")
	// ErrTrimmed says that records have been asked for that are trimmed.
	ErrTrimmed = errors.New("the journal begins later")
	// ErrDamaged says that something written and once durable can't be read.
	ErrDamaged = errors.New("damaged")
	// ErrNewerFormat says that a newer version of the program wrote the data.
	ErrNewerFormat = errors.New("the data was written by a newer version")
)

// Pos is a place in a journal: the number of a record. The first record has 1,
// and there are no gaps. 0: before all records.
type Pos uint64

// JournalID names a journal by the node that writes it.
type JournalID string

// Record is one entry of a journal. Its Data is opaque to the engine and belongs
// to whoever got the Record.
type Record struct {
	Pos  Pos
	Data []byte
}

// Journal is an append-only sequence of records for each node. A node writes its
// own only and may read all.
type Journal interface {
	// Append adds a record to this node's journal and returns its place once it is
	// durable, in a cluster on a quorum. Calls that overlap are appended in the
	// order in which they return. The engine keeps nothing of rec.
	//
	// After an error the record is not part of the journal, and the next Append
	// takes its place: it begins by repairing what the failure may have left, and
	// fails itself if it can't. Only if the process ends before an Append succeeds
	// may the failed record turn out to be the last one after all.
	Append(ctx context.Context, rec []byte) (Pos, error)
	// Tail yields the records of a journal in order, from the place from on, and
	// then those that are appended later, until ctx ends. It never skips: a record
	// that is missing or damaged ends it with an error. Only durable records are
	// yielded.
	Tail(ctx context.Context, id JournalID, from Pos) iter.Seq2[Record, error]
	// Trim lets the engine forget the records up to and including the place upTo.
	// It may forget fewer, and it need not be durable at once.
	Trim(ctx context.Context, id JournalID, upTo Pos) error
	// Span returns the first place that can be read and the place that the next
	// record will have; they are equal if the journal holds nothing.
	Span(ctx context.Context, id JournalID) (first, next Pos, err error)
	// Journals lists the journals there are, this node's own included.
	Journals(ctx context.Context) ([]JournalID, error)
	// Own is the journal that this node writes.
	Own() JournalID
}

// Rev is the revision of a key: it grows with each change, over all keys.
type Rev uint64

// Entry is a key with its value, which belongs to whoever got the Entry.
type Entry struct {
	Key   string
	Value []byte
	Rev   Rev
}

// PutOptions are the conditions of a Put. The zero value has none.
type PutOptions struct {
	// If makes the Put depend on the revision that the key has now, IfRev; IfRev
	// 0 means that there must be no such key.
	If    bool
	IfRev Rev
	// TTL is how long the key lives, 0: for ever. It is gone within a second
	// after that.
	TTL time.Duration
}

// Op is one change in a Batch.
type Op struct {
	Key   string
	Value []byte
	// Delete removes the key instead.
	Delete bool
	// DeleteTo, with Delete, removes all keys from Key up to and without DeleteTo.
	DeleteTo string
}

// Change is what Watch yields. Deleted keys have a nil Value.
type Change struct {
	Entry
	Deleted bool
}

// KV maps keys to values. Keys are any bytes, at least one and at most 64 KiB
// plus 64 bytes, ordered bytewise; values are up to 1 GiB on one node.
type KV interface {
	// Get returns ErrNotFound if there is no such key.
	Get(ctx context.Context, key string) (Entry, error)
	// Put returns once the value is durable.
	Put(ctx context.Context, key string, value []byte, o PutOptions) (Rev, error)
	// Delete returns once the key is gone for good, and ErrNotFound if there is
	// none. With o.If it depends on the revision.
	Delete(ctx context.Context, key string, o PutOptions) error
	// List returns the first entries, at most limit, whose keys begin with prefix
	// and are greater than after, in order.
	List(ctx context.Context, prefix, after string, limit int) ([]Entry, error)
	// Watch yields the changes of keys that begin with prefix and whose revision
	// is greater than from: first the present state, each key once in the order of
	// revisions, then what changes, until ctx ends. Of several changes to one key
	// in short order only the last need be yielded. From a deletion before Watch
	// began nothing is seen. A watcher that falls far behind gets an error, and
	// begins again.
	Watch(ctx context.Context, prefix string, from Rev) iter.Seq2[Change, error]
	// Batch makes the changes and returns once they are durable. On one node it is
	// atomic. In a cluster it may stop in the middle, but never does a later change
	// without the earlier ones: callers order their changes so that they may be
	// made again.
	Batch(ctx context.Context, ops []Op) error
}

// NodeID names a node of a cluster.
type NodeID string

// Bus carries bytes between nodes, at most once. On a single node there is nobody
// to speak to.
type Bus interface {
	Send(ctx context.Context, to NodeID, b []byte) error
	Request(ctx context.Context, to NodeID, b []byte) ([]byte, error)
	// Nodes are the others that can be reached now.
	Nodes() []NodeID
}

// Stats is how an engine fares.
type Stats struct {
	// Err is why nothing can be made durable at present; nil: all is well.
	Err error
	// JournalRecords and JournalBytes are what is not trimmed.
	JournalRecords uint64
	JournalBytes   int64
	// Appends counts since the start, with the bytes given to Append.
	Appends       uint64
	AppendedBytes uint64
	// WrittenBytes is what was written to disk for journal and KV since the start,
	// as far as the engine knows.
	WrittenBytes uint64
	// SyncLatency is a histogram of the time that making an Append durable took.
	SyncLatency Histogram
	// KVBytes is what the KV takes on disk.
	KVBytes int64
	// FreeBytes is what the file system has left; -1: unknown.
	FreeBytes int64
}

// Histogram counts durations in buckets that double: bucket i counts those below
// 2^i microseconds and not below 2^(i-1). The last one counts all that are longer.
type Histogram [28]uint64

// Observe adds a duration.
func (h *Histogram) Observe(d time.Duration) {
	us := uint64(max(d, 0) / time.Microsecond)
	i := 0
	for us > 0 && i < len(h)-1 {
		us >>= 1
		i++
	}
	h[i]++
}

// Quantile returns an upper bound of the q-quantile, 0 <= q <= 1; 0 if nothing
// has been observed.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total uint64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return 0
	}
	want := uint64(q*float64(total-1)) + 1
	var seen uint64
	for i, n := range h {
		if seen += n; seen >= want {
			return time.Microsecond << i
		}
	}
	return time.Microsecond << (len(h) - 1)
}
