package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/store"
)

func testPutGet(t *testing.T, s *suite) {
	s.wantNone("a")
	one := s.put("a", "1", store.PutOptions{})
	if got := s.wantValue("a", "1"); got != one {
		t.Fatalf("Get has revision %d, Put returned %d", got, one)
	}
	two := s.put("a", "", store.PutOptions{})
	if two <= one {
		t.Fatalf("revision %d after %d", two, one)
	}
	s.wantValue("a", "")
	s.wantNone("b")
	large := string(pattern(300_000, 7))
	s.put("large", large, store.PutOptions{})
	s.wantValue("large", large)
}

func testPutConditions(t *testing.T, s *suite) {
	_, err := s.kv().Put(s.ctx, "a", []byte("0"), store.PutOptions{If: true, IfRev: 7})
	s.wantErr("Put if revision 7 of a key that is not there", err, store.ErrRevision)
	s.wantNone("a")
	one := s.put("a", "1", store.PutOptions{If: true})
	_, err = s.kv().Put(s.ctx, "a", []byte("2"), store.PutOptions{If: true})
	s.wantErr("Put if absent of a key that is there", err, store.ErrRevision)
	two := s.put("a", "2", store.PutOptions{If: true, IfRev: one})
	_, err = s.kv().Put(s.ctx, "a", []byte("3"), store.PutOptions{If: true, IfRev: one})
	s.wantErr("Put with the revision before", err, store.ErrRevision)
	s.wantValue("a", "2")
	s.put("b", "1", store.PutOptions{}) // another key's change is not a's
	s.restart()
	s.put("a", "4", store.PutOptions{If: true, IfRev: two})
}

// testPutRaces counts with compare-and-set from several goroutines.
func testPutRaces(t *testing.T, s *suite) {
	s.put("n", "0", store.PutOptions{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for done := 0; done < 10; {
				now, err := s.kv().Get(s.ctx, "n")
				if err != nil {
					t.Errorf("Get: %v", err)
					return
				}
				var n int
				fmt.Sscan(string(now.Value), &n)
				_, err = s.kv().Put(s.ctx, "n", []byte(fmt.Sprint(n+1)), store.PutOptions{If: true, IfRev: now.Rev})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrRevision):
					t.Errorf("Put: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.wantValue("n", "40")
}

func testDelete(t *testing.T, s *suite) {
	s.wantErr("Delete of nothing", s.kv().Delete(s.ctx, "a", store.PutOptions{}), store.ErrNotFound)
	one := s.put("a", "1", store.PutOptions{})
	two := s.put("a", "2", store.PutOptions{})
	s.wantErr("Delete with the revision before", s.kv().Delete(s.ctx, "a", store.PutOptions{If: true, IfRev: one}), store.ErrRevision)
	s.wantValue("a", "2")
	if err := s.kv().Delete(s.ctx, "a", store.PutOptions{If: true, IfRev: two}); err != nil {
		t.Fatal(err)
	}
	s.wantNone("a")
	if three := s.put("a", "3", store.PutOptions{If: true}); three <= two {
		t.Fatalf("revision %d after %d and a deletion", three, two)
	}
	if err := s.kv().Delete(s.ctx, "a", store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.wantNone("a")
}

func testKeysOfAnyBytes(t *testing.T, s *suite) {
	keys := []string{"\x00", "\x00\x00", " ", "a", "a\x00", "a\x00b", "a\xff", "a\xff\xff", "ä/+#", "\xff", "\xff\xff"}
	for _, key := range keys {
		s.put(key, "="+key, store.PutOptions{})
	}
	s.restart()
	for _, key := range keys {
		s.wantValue(key, "="+key)
	}
	if got := s.list("", "", 100); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", keys) {
		t.Fatalf("List = %q, expected %q: all keys, and none of the engine's own", got, keys)
	}
	s.wantList("a\xff", "", 9, "a\xff", "a\xff\xff")
	s.wantList("\xff", "", 9, "\xff", "\xff\xff")
	s.batch(store.Op{Key: "a\xff", Delete: true, DeleteTo: "\xff\xff\xff"})
	s.wantList("a", "", 9, "a", "a\x00", "a\x00b")
	s.wantList("\xff", "", 9)
}

func testKeyLimits(t *testing.T, s *suite) {
	longest := strings.Repeat("k", 64<<10+64)
	s.put(longest, "v", store.PutOptions{})
	s.wantValue(longest, "v")
	for _, key := range []string{"", longest + "k"} {
		if _, err := s.kv().Put(s.ctx, key, nil, store.PutOptions{}); err == nil {
			t.Errorf("Put accepted a key of %d bytes", len(key))
		}
		if err := s.kv().Batch(s.ctx, []store.Op{{Key: key}}); err == nil {
			t.Errorf("Batch accepted a key of %d bytes", len(key))
		}
	}
}

func testList(t *testing.T, s *suite) {
	for _, key := range []string{"b/2", "a/1", "b/1", "b/3", "c", "b"} {
		s.put(key, "="+key, store.PutOptions{})
	}
	s.wantList("b/", "", 10, "b/1", "b/2", "b/3")
	s.wantList("b/", "", 2, "b/1", "b/2")
	s.wantList("b/", "b/2", 10, "b/3")
	s.wantList("b/", "b/15", 10, "b/2", "b/3")
	s.wantList("b/", "a", 10, "b/1", "b/2", "b/3")
	s.wantList("b/", "b/3", 10)
	s.wantList("b/", "z", 10)
	s.wantList("", "b", 10, "b/1", "b/2", "b/3", "c")
	s.wantList("x", "", 10)
	entries, err := s.kv().List(s.ctx, "b/2", "", 10)
	if err != nil || len(entries) != 1 || string(entries[0].Value) != "=b/2" || entries[0].Rev != s.wantValue("b/2", "=b/2") {
		t.Fatalf("List(b/2) = %v, %v, expected what Get returns", entries, err)
	}
}

func testBatch(t *testing.T, s *suite) {
	s.put("old", "1", store.PutOptions{})
	s.batch() // nothing to do is no error
	s.batch(
		store.Op{Key: "a", Value: []byte("1")},
		store.Op{Key: "b", Value: []byte("1")},
		store.Op{Key: "old", Delete: true},
		store.Op{Key: "absent", Delete: true},
		store.Op{Key: "a", Value: []byte("2")}, // the later one counts
	)
	s.restart()
	s.wantList("", "", 10, "a", "b")
	a, b := s.wantValue("a", "2"), s.wantValue("b", "1")
	s.put("a", "3", store.PutOptions{If: true, IfRev: a})
	s.put("b", "3", store.PutOptions{If: true, IfRev: b})
}

func testBatchRange(t *testing.T, s *suite) {
	for i := range 20 {
		s.put(fmt.Sprintf("q/%02d", i), "x", store.PutOptions{})
	}
	s.put("r", "x", store.PutOptions{})
	s.batch(
		store.Op{Key: "q/05", Delete: true, DeleteTo: "q/15"},
		store.Op{Key: "q/07", Value: []byte("again")},
		store.Op{Key: "q/19", Delete: true, DeleteTo: "q/17"}, // an empty range
	)
	want := []string{"q/00", "q/01", "q/02", "q/03", "q/04", "q/07", "q/15", "q/16", "q/17", "q/18", "q/19"}
	s.wantList("q/", "", 100, want...)
	s.restart()
	s.wantList("q/", "", 100, want...)
	s.put("q/06", "new", store.PutOptions{If: true})
	s.batch(store.Op{Key: "q/", Delete: true, DeleteTo: "q0"})
	s.wantList("", "", 100, "r")
}

// ttl is what the suite uses; a key is gone within a second after it.
const ttl = 100 * time.Millisecond

// eventuallyNone waits until a key has expired, and must not be there still a
// second after its time; the suite is lenient, the machine may be busy.
func (s *suite) eventuallyNone(key string) {
	s.t.Helper()
	for {
		_, err := s.kv().Get(s.ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return
		}
		if err != nil {
			s.t.Fatalf("Get(%q), which should expire: %v", key, err)
		}
		s.pause()
	}
}

func (s *suite) pause() {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-s.ctx.Done():
		s.t.Fatal("a key with a TTL does not expire")
	}
}

func testTTL(t *testing.T, s *suite) {
	s.put("short", "1", store.PutOptions{TTL: ttl})
	s.put("long", "1", store.PutOptions{TTL: time.Hour})
	s.put("ever", "1", store.PutOptions{})
	s.eventuallyNone("short")
	s.wantList("", "", 10, "ever", "long")
	s.wantErr("Delete of an expired key", s.kv().Delete(s.ctx, "short", store.PutOptions{}), store.ErrNotFound)
	s.put("short", "2", store.PutOptions{If: true})
	s.wantValue("short", "2")
}

// testTTLReplaced looks at a key whose later Put has no TTL, or a longer one.
func testTTLReplaced(t *testing.T, s *suite) {
	s.put("a", "1", store.PutOptions{TTL: ttl})
	s.put("b", "1", store.PutOptions{TTL: ttl})
	s.put("c", "1", store.PutOptions{TTL: ttl})
	s.put("a", "2", store.PutOptions{})
	s.put("b", "2", store.PutOptions{TTL: time.Hour})
	s.batch(store.Op{Key: "c", Value: []byte("2")})
	s.put("witness", "1", store.PutOptions{TTL: 2 * ttl})
	s.eventuallyNone("witness")
	s.wantList("", "", 10, "a", "b", "c")
}

func testTTLSurvives(t *testing.T, s *suite) {
	s.put("short", "1", store.PutOptions{TTL: ttl})
	s.put("later", "1", store.PutOptions{TTL: 5 * ttl})
	s.put("ever", "1", store.PutOptions{})
	s.restart()
	s.eventuallyNone("short")
	s.eventuallyNone("later")
	s.restart()
	s.wantList("", "", 10, "ever")
}

func testRevisionsGrow(t *testing.T, s *suite) {
	last := store.Rev(0)
	for i := range 5 {
		rev := s.put(fmt.Sprint(i%2), "x", store.PutOptions{})
		if rev <= last {
			t.Fatalf("revision %d after %d", rev, last)
		}
		last = rev
		s.batch(store.Op{Key: "b", Value: []byte{byte(i)}}, store.Op{Key: "c", Delete: true})
		if rev := s.wantValue("b", string(rune(i))); rev <= last {
			t.Fatalf("revision %d by a Batch after %d", rev, last)
		} else {
			last = rev
		}
		if i%2 == 1 { // the last change before a restart may be a deletion
			if err := s.kv().Delete(s.ctx, "b", store.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		s.restart()
	}
}

func testKVSurvives(t *testing.T, s *suite) {
	revs := make(map[string]store.Rev)
	for round := range 3 {
		for i := range 30 {
			key := fmt.Sprintf("%d/%02d", round, i)
			revs[key] = s.put(key, key, store.PutOptions{})
		}
		s.restart()
		for key, rev := range revs {
			if got := s.wantValue(key, key); got != rev {
				t.Fatalf("%s has revision %d after a restart, expected %d", key, got, rev)
			}
		}
	}
}

func testWatchPresent(t *testing.T, s *suite) {
	s.put("w/b", "1", store.PutOptions{})
	two := s.put("w/a", "1", store.PutOptions{})
	s.put("other", "1", store.PutOptions{})
	s.put("w/gone", "1", store.PutOptions{})
	s.batch(store.Op{Key: "w/gone", Delete: true})
	s.put("w/c", "1", store.PutOptions{})
	s.put("w/b", "2", store.PutOptions{})
	w := s.watch("w/", 0)
	w.want("w/a=1")
	w.want("w/c=1")
	last := w.want("w/b=2")
	w = s.watch("w/", two)
	w.want("w/c=1")
	w.want("w/b=2")
	w = s.watch("w/", last)
	s.put("w/d", "", store.PutOptions{})
	w.want("w/d=")
}

func testWatchFollows(t *testing.T, s *suite) {
	w := s.watch("w/", 0)
	s.put("w/first", "1", store.PutOptions{})
	last := w.want("w/first=1")
	s.put("v", "unseen", store.PutOptions{})
	for i := range 10 {
		key := fmt.Sprint("w/", i)
		rev := s.put(key, "1", store.PutOptions{})
		if got := w.want(key + "=1"); got != rev || got <= last {
			t.Fatalf("change of %s has revision %d, Put returned %d, the one before was %d", key, got, rev, last)
		}
		last = rev
	}
	if err := s.kv().Delete(s.ctx, "w/3", store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if rev := w.want("-w/3"); rev <= last {
		t.Fatalf("a deletion has revision %d, the change before %d", rev, last)
	}
	s.batch(store.Op{Key: "w/x", Value: []byte("1")}, store.Op{Key: "w/4", Delete: true, DeleteTo: "w/6"})
	w.want("w/x=1")
	w.want("-w/4")
	w.want("-w/5")
}

// testWatchRace writes while a watch begins: at its end the watcher must know
// the last value of each key.
func testWatchRace(t *testing.T, s *suite) {
	const keys, rounds = 10, 20
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range rounds {
			for k := range keys {
				if _, err := s.kv().Put(s.ctx, fmt.Sprint("k", k), []byte(fmt.Sprint(i)), store.PutOptions{}); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
			}
		}
	})
	known := make(map[string]string)
	last := store.Rev(0)
	for c, err := range s.kv().Watch(s.ctx, "k", 0) {
		if err != nil {
			t.Fatalf("Watch: %v, knows %v", err, known)
		}
		if c.Rev <= last {
			t.Fatalf("revision %d after %d", c.Rev, last)
		}
		last = c.Rev
		known[c.Key] = string(c.Value)
		done := 0
		for _, v := range known {
			if v == fmt.Sprint(rounds-1) {
				done++
			}
		}
		if done == keys {
			return
		}
	}
}

func testWatchExpiry(t *testing.T, s *suite) {
	s.put("w/before", "1", store.PutOptions{TTL: 5 * ttl})
	w := s.watch("w/", 0)
	w.want("w/before=1")
	s.put("w/since", "1", store.PutOptions{TTL: 10 * ttl})
	w.want("w/since=1")
	w.want("-w/before")
	w.want("-w/since")
	s.wantNone("w/since")
}

// testClose looks at what waits, and at calls that come later.
func testClose(t *testing.T, s *suite) {
	s.append("one")
	s.put("a", "1", store.PutOptions{})
	waiting := make(chan struct{}, 2)
	ended := make(chan error, 2)
	go func() {
		for _, err := range s.journal().Tail(s.ctx, s.own(), 1) {
			if err != nil {
				ended <- err
				return
			}
			waiting <- struct{}{}
		}
	}()
	go func() {
		for _, err := range s.kv().Watch(s.ctx, "", 0) {
			if err != nil {
				ended <- err
				return
			}
			waiting <- struct{}{}
		}
	}()
	<-waiting
	<-waiting
	if err := s.e.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for range 2 {
		s.wantErr("waiting for a closed Engine", <-ended, store.ErrClosed)
	}
	_, err := s.journal().Append(s.ctx, []byte("x"))
	s.wantErr("Append", err, store.ErrClosed)
	_, _, err = s.journal().Span(s.ctx, s.own())
	s.wantErr("Span", err, store.ErrClosed)
	s.wantErr("Trim", s.journal().Trim(s.ctx, s.own(), 1), store.ErrClosed)
	_, err = s.kv().Get(s.ctx, "a")
	s.wantErr("Get", err, store.ErrClosed)
	_, err = s.kv().Put(s.ctx, "a", nil, store.PutOptions{})
	s.wantErr("Put", err, store.ErrClosed)
	s.wantErr("Delete", s.kv().Delete(s.ctx, "a", store.PutOptions{}), store.ErrClosed)
	s.wantErr("Batch", s.kv().Batch(s.ctx, []store.Op{{Key: "a"}}), store.ErrClosed)
	_, err = s.kv().List(s.ctx, "", "", 1)
	s.wantErr("List", err, store.ErrClosed)
	for _, err := range s.kv().Watch(s.ctx, "", 0) {
		s.wantErr("Watch", err, store.ErrClosed)
	}
	for _, err := range s.journal().Tail(s.ctx, s.own(), 1) {
		s.wantErr("Tail", err, store.ErrClosed)
	}
	if err := s.e.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
		t.Fatalf("the second Close: %v", err)
	}
}

func testStats(t *testing.T, s *suite) {
	s.append("12345")
	s.append("1234567890")
	s.put("a", "1", store.PutOptions{})
	st := s.e.Stats()
	if st.Err != nil || st.Appends != 2 || st.AppendedBytes != 15 || st.JournalRecords != 2 {
		t.Fatalf("Stats after two records of 5 and 10 bytes: %+v", st)
	}
	if st.JournalBytes < 15 || st.WrittenBytes < 15 {
		t.Fatalf("Stats: %d bytes in the journal and %d written, expected at least 15", st.JournalBytes, st.WrittenBytes)
	}
	if h := st.SyncLatency; h.Quantile(1) <= 0 {
		t.Fatalf("Stats: no sync latency after two Appends: %v", h)
	}
	if err := s.journal().Trim(s.ctx, s.own(), 2); err != nil {
		t.Fatal(err)
	}
	first, next := s.span()
	if got := s.e.Stats().JournalRecords; got != uint64(next-first) {
		t.Fatalf("Stats: %d records in the journal, Span says %d", got, next-first)
	}
	s.restart()
	if st := s.e.Stats(); st.JournalRecords != uint64(next-first) || st.Err != nil {
		t.Fatalf("Stats after a restart: %+v, expected %d records", st, next-first)
	}
}

// testOwnership changes what an engine returned and what it was given.
func testOwnership(t *testing.T, s *suite) {
	given := []byte("given")
	if _, err := s.kv().Put(s.ctx, "a", given, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s.batch(store.Op{Key: "b", Value: given})
	copy(given, "wrong")
	s.wantValue("a", "given")
	s.wantValue("b", "given")
	got, err := s.kv().Get(s.ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	copy(got.Value, "wrong")
	list, err := s.kv().List(s.ctx, "", "", 10)
	if err != nil {
		t.Fatal(err)
	}
	copy(list[1].Value, "wrong")
	s.wantValue("a", "given")
	s.wantValue("b", "given")
	s.append("record")
	for rec, err := range s.journal().Tail(s.ctx, s.own(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		copy(rec.Data, "wrong")
		break
	}
	if got := s.read(1, 2); got[0] != "record" {
		t.Fatalf("Tail = %q after a reader wrote to what it got", got)
	}
}

func testBus(t *testing.T, s *suite) {
	if nodes := s.e.Bus().Nodes(); len(nodes) > 0 {
		t.Skipf("this engine reaches %q", nodes)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if err := s.e.Bus().Send(ctx, "nobody", nil); err == nil {
		t.Error("Send to a node that is not there returned no error")
	}
	if _, err := s.e.Bus().Request(ctx, "nobody", nil); err == nil {
		t.Error("Request to a node that is not there returned no error")
	}
}
