// Package storetest is the common suite of all engines, and an engine that fails
// when told to. Begin with [Run] to test an engine and with [Faulty] to test what
// uses one.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"fairlead/store"
)

// Open makes an empty Engine, and closes it when the test ends.
type Open func(t *testing.T) store.Engine

// Reopen closes an Engine and opens what it has written.
type Reopen func(t *testing.T, e store.Engine) store.Engine

// waitMax is how long the suite waits for what must come; only a broken engine
// takes so long.
const waitMax = 20 * time.Second

// Run tests an engine against what package store promises. It asks for nothing
// that a cluster could not give, but that only one node writes.
func Run(t *testing.T, open Open, reopen Reopen) {
	for name, test := range map[string]func(*testing.T, *suite){
		"AppendNumbersRecords":        testAppendNumbers,
		"AppendKeepsNothing":          testAppendKeepsNothing,
		"AppendSizes":                 testAppendSizes,
		"AppendConcurrently":          testAppendConcurrently,
		"AppendCancelled":             testAppendCancelled,
		"TailFollows":                 testTailFollows,
		"TailFromTheEnd":              testTailFromTheEnd,
		"TailStops":                   testTailStops,
		"TailOfUnknownJournal":        testTailUnknown,
		"Trim":                        testTrim,
		"TrimEverything":              testTrimEverything,
		"JournalSurvives":             testJournalSurvives,
		"PutGet":                      testPutGet,
		"PutConditions":               testPutConditions,
		"PutRaces":                    testPutRaces,
		"DeleteConditions":            testDelete,
		"KeysOfAnyBytes":              testKeysOfAnyBytes,
		"KeysTooLongOrEmpty":          testKeyLimits,
		"List":                        testList,
		"Batch":                       testBatch,
		"BatchDeletesRange":           testBatchRange,
		"TTL":                         testTTL,
		"TTLIsPartOfThePut":           testTTLReplaced,
		"TTLSurvives":                 testTTLSurvives,
		"RevisionsGrow":               testRevisionsGrow,
		"KVSurvives":                  testKVSurvives,
		"WatchShowsPresentState":      testWatchPresent,
		"WatchFollows":                testWatchFollows,
		"WatchCannotMissAWrite":       testWatchRace,
		"WatchSeesExpiry":             testWatchExpiry,
		"CloseEndsWaiting":            testClose,
		"StatsCount":                  testStats,
		"ValuesBelongToWhoGotThem":    testOwnership,
		"BusOfOneNodeHasNobodyToName": testBus,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), waitMax)
			t.Cleanup(cancel)
			test(t, &suite{t: t, ctx: ctx, e: open(t), reopen: reopen})
		})
	}
}

// suite is one test on one engine.
type suite struct {
	t      *testing.T
	ctx    context.Context
	e      store.Engine
	reopen Reopen
}

func (s *suite) restart() { s.e = s.reopen(s.t, s.e) }

func (s *suite) journal() store.Journal { return s.e.Journal() }
func (s *suite) own() store.JournalID   { return s.e.Journal().Own() }
func (s *suite) kv() store.KV           { return s.e.KV() }

func (s *suite) append(rec string) store.Pos {
	s.t.Helper()
	at, err := s.journal().Append(s.ctx, []byte(rec))
	if err != nil {
		s.t.Fatalf("Append: %v", err)
	}
	return at
}

// read takes the records from the place from on, and stops before to.
func (s *suite) read(from, to store.Pos) []string {
	s.t.Helper()
	var got []string
	if from >= to {
		return got
	}
	for rec, err := range s.journal().Tail(s.ctx, s.own(), from) {
		if err != nil {
			s.t.Fatalf("Tail from %d, after %d records: %v", from, len(got), err)
		}
		if want := from + store.Pos(len(got)); rec.Pos != want {
			s.t.Fatalf("Tail yielded record %d, expected %d", rec.Pos, want)
		}
		if got = append(got, string(rec.Data)); rec.Pos+1 == to {
			break
		}
	}
	return got
}

func (s *suite) span() (first, next store.Pos) {
	s.t.Helper()
	first, next, err := s.journal().Span(s.ctx, s.own())
	if err != nil {
		s.t.Fatalf("Span: %v", err)
	}
	return first, next
}

func (s *suite) put(key, value string, o store.PutOptions) store.Rev {
	s.t.Helper()
	rev, err := s.kv().Put(s.ctx, key, []byte(value), o)
	if err != nil {
		s.t.Fatalf("Put(%q): %v", key, err)
	}
	return rev
}

func (s *suite) batch(ops ...store.Op) {
	s.t.Helper()
	if err := s.kv().Batch(s.ctx, ops); err != nil {
		s.t.Fatalf("Batch: %v", err)
	}
}

func (s *suite) wantValue(key, value string) store.Rev {
	s.t.Helper()
	got, err := s.kv().Get(s.ctx, key)
	if err != nil || string(got.Value) != value || got.Key != key {
		s.t.Fatalf("Get(%q) = %q, %q, %v, expected the value %q", key, got.Key, got.Value, err, value)
	}
	return got.Rev
}

func (s *suite) wantNone(key string) {
	s.t.Helper()
	if got, err := s.kv().Get(s.ctx, key); !errors.Is(err, store.ErrNotFound) {
		s.t.Fatalf("Get(%q) = %q, %v, expected ErrNotFound", key, got.Value, err)
	}
}

func (s *suite) wantErr(what string, err, want error) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Fatalf("%s: error %v, expected %v", what, err, want)
	}
}

// list returns the keys.
func (s *suite) list(prefix, after string, limit int) []string {
	s.t.Helper()
	entries, err := s.kv().List(s.ctx, prefix, after, limit)
	if err != nil {
		s.t.Fatalf("List(%q, %q, %d): %v", prefix, after, limit, err)
	}
	keys := []string{}
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	return keys
}

func (s *suite) wantList(prefix, after string, limit int, want ...string) {
	s.t.Helper()
	if got := s.list(prefix, after, limit); fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Fatalf("List(%q, %q, %d) = %q, expected %q", prefix, after, limit, got, want)
	}
}

// watch is a Watch that is read step by step.
type watch struct {
	s    *suite
	next func() (store.Change, error, bool)
}

func (s *suite) watch(prefix string, from store.Rev) *watch {
	next, stop := iter.Pull2(s.kv().Watch(s.ctx, prefix, from))
	s.t.Cleanup(stop)
	return &watch{s, next}
}

// want takes the next change and describes it: key=value, or -key.
func (w *watch) want(want string) store.Rev {
	w.s.t.Helper()
	c, err, ok := w.next()
	if err != nil || !ok {
		w.s.t.Fatalf("Watch ended: %v, expected %s", err, want)
	}
	got := fmt.Sprintf("%s=%s", c.Key, c.Value)
	if c.Deleted {
		got = "-" + c.Key
	}
	if c.Deleted != (c.Value == nil) {
		w.s.t.Fatalf("change of %q: Deleted is %v and Value is %v", c.Key, c.Deleted, c.Value)
	}
	if got != want {
		w.s.t.Fatalf("Watch yielded %s, expected %s", got, want)
	}
	return c.Rev
}

// pattern returns n bytes that depend on seed, to tell records apart.
func pattern(n int, seed byte) []byte {
	return bytes.Repeat([]byte{seed, seed ^ 0x5a, 0, 0xff}, n/4+1)[:n]
}
