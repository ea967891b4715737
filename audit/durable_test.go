package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/audit"
)

// disk makes files that fail when told to.
type disk struct {
	mu     sync.Mutex
	room   int           // bytes that can still be written; negative: any
	syncs  int           // so far
	bad    error         // what Sync answers
	repair error         // what Truncate answers
	hold   chan struct{} // Sync waits until it can be read from; nil: it doesn't
}

type diskFile struct {
	audit.File
	d *disk
}

func (d *disk) open(path string) (audit.File, error) {
	f, err := audit.OpenFile(path)
	if err != nil {
		return nil, err
	}
	return diskFile{f, d}, nil
}

func (d *disk) set(change func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (f diskFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.room < 0 || len(b) <= f.d.room {
		return f.File.Write(b)
	}
	n, _ := f.File.Write(b[:f.d.room])
	return n, syscall.ENOSPC
}

func (f diskFile) Sync() error {
	f.d.mu.Lock()
	f.d.syncs++
	hold, bad := f.d.hold, f.d.bad
	f.d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return errors.Join(bad, f.File.Sync())
}

func (f diskFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.repair != nil {
		return f.d.repair
	}
	return f.File.Truncate(size)
}

func openOn(t *testing.T, dir string, d *disk) *audit.Log {
	t.Helper()
	l, err := audit.OpenWith(dir, audit.Options{}, d.open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestCutsOfTheLastWrite lets a crash leave each length that the last write, of three
// entries, could have reached.
func TestCutsOfTheLastWrite(t *testing.T) {
	var before, after []byte // the file around the last write
	var anchor []byte        // of the time before
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d := &disk{room: -1}
		l := openOn(t, dir, d)
		act(t, l, "door-1")
		time.Sleep(time.Minute) // the anchor is written
		synctest.Wait()
		hold := make(chan struct{})
		d.set(func(d *disk) { d.hold = hold })
		var wg sync.WaitGroup
		start := func(n int) {
			for i := range n {
				wg.Go(func() { act(t, l, fmt.Sprint("next-", i)) })
			}
			synctest.Wait()
		}
		start(1) // is being written
		start(3) // wait for the next write
		_, texts := read(t, dir)
		before, anchor = texts[audit.FileName(1)], texts[audit.AnchorName]
		close(hold)
		wg.Wait()
		closeLog(t, l)
		_, texts = read(t, dir)
		after = texts[audit.FileName(1)]
	})
	if bytes.Count(before, []byte("\n")) != 2 || bytes.Count(after, []byte("\n")) != 5 {
		t.Fatalf("before:\n%s\nafter:\n%s", before, after)
	}
	for n := len(before); n <= len(after); n++ {
		checkCut(t, fill(t, map[string][]byte{audit.FileName(1): after[:n], audit.AnchorName: anchor}), after[:n])
	}
}

func checkCut(t *testing.T, dir string, text []byte) {
	t.Helper()
	entries := uint64(bytes.Count(text, []byte("\n")))
	unfinished := !bytes.HasSuffix(text, []byte("\n"))
	r := wantWhole(t, dir, entries)
	if (r.Torn > 0) != unfinished {
		t.Fatalf("%d bytes: Verify saw %d bytes of an unfinished line", len(text), r.Torn)
	}
	l := open(t, dir, audit.Options{})
	act(t, l, "after")
	closeLog(t, l)
	if unfinished {
		entries++
	}
	wantWhole(t, dir, entries+1)
	_, texts := read(t, dir)
	now := texts[audit.FileName(1)]
	if whole := text[:bytes.LastIndexByte(text, '\n')+1]; !bytes.HasPrefix(now, whole) {
		t.Fatalf("%d bytes: the entries before the cut have changed", len(text))
	}
	if got := strings.Contains(string(now), audit.NoteTorn); got != unfinished {
		t.Fatalf("%d bytes: a note about an unfinished line: %v", len(text), got)
	}
}

// TestCutsOfTheFirstWrite begins with nothing.
func TestCutsOfTheFirstWrite(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, audit.Options{})
	_, before := read(t, dir)
	act(t, l, "door-1")
	closeLog(t, l)
	_, after := read(t, dir)
	name := audit.FileName(1)
	for n := range len(after[name]) {
		dir := fill(t, map[string][]byte{name: after[name][:n], audit.AnchorName: before[audit.AnchorName]})
		l := open(t, dir, audit.Options{})
		act(t, l, "after")
		closeLog(t, l)
		wantWhole(t, dir, uint64(1+min(n, 1)))
	}
}

// TestCutInANewFile is a crash while the first entry of another file was written.
func TestCutInANewFile(t *testing.T) {
	names, texts := sample(t)
	first := texts[names[1]]
	first = first[:bytes.IndexByte(first, '\n')+1]
	last := texts[names[0]][bytes.LastIndexByte(texts[names[0]][:len(texts[names[0]])-1], '\n')+1:]
	e, err := audit.ParseLine(bytes.TrimSuffix(last, []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	anchor := fmt.Appendf(nil, "{\"n\":%d,\"hash\":\"%s\"}\n", e.Number, e.Hash)
	for n := range len(first) {
		dir := fill(t, map[string][]byte{names[0]: texts[names[0]], names[1]: first[:n], audit.AnchorName: anchor})
		wantWhole(t, dir, e.Number)
		l := open(t, dir, small)
		act(t, l, "after")
		closeLog(t, l)
		wantWhole(t, dir, e.Number+1+uint64(min(n, 1)))
	}
}

// TestDamageIsLeft: what was durable is never touched, and Verify goes on finding it.
func TestDamageIsLeft(t *testing.T) {
	names, texts := sample(t)
	for _, at := range []int{0, 30, len(texts[names[1]]) - 200, len(texts[names[1]]) - 1} {
		bad := map[string][]byte{}
		for name, text := range texts {
			bad[name] = slices.Clone(text)
		}
		bad[names[1]][at] ^= 4
		dir := fill(t, bad)
		wrong := verify(t, dir).Wrong[0]
		for range 2 {
			l := open(t, dir, small)
			act(t, l, "after")
			closeLog(t, l)
		}
		now, after := read(t, dir)
		if !bytes.Equal(after[names[1]], bad[names[1]]) {
			t.Errorf("byte %d: the damaged file was changed", at)
		}
		r := verify(t, dir)
		if r.OK() || r.Wrong[0] != wrong {
			t.Errorf("byte %d: Verify finds %v, before %v", at, r.Wrong, wrong)
		}
		if len(now) != 3 {
			t.Errorf("byte %d: files %v, want one more", at, now)
		}
		if notes := all(t, dir, audit.Query{Action: audit.NoteDamage}); len(notes) != 1 || notes[0].Object != names[1] {
			t.Errorf("byte %d: notes of damage: %s", at, actions(notes))
		}
	}
}

// TestMissingEntries takes away whole entries at the end. The gap stays visible.
func TestMissingEntries(t *testing.T) {
	names, texts := sample(t)
	lines := bytes.SplitAfter(texts[names[1]], []byte("\n"))
	for _, test := range []struct {
		name string
		take func(map[string][]byte)
	}{
		{"the last", func(m map[string][]byte) { m[names[1]] = bytes.Join(lines[:len(lines)-2], nil) }},
		{"a file", func(m map[string][]byte) { delete(m, names[1]) }},
		{"the content of a file", func(m map[string][]byte) { m[names[1]] = nil }},
		{"everything", func(m map[string][]byte) { delete(m, names[0]); delete(m, names[1]) }},
	} {
		left := map[string][]byte{}
		for name, text := range texts {
			left[name] = text
		}
		test.take(left)
		dir := fill(t, left)
		for range 2 {
			if verify(t, dir).OK() {
				t.Errorf("%s: Verify finds nothing", test.name)
			}
			l := open(t, dir, small)
			act(t, l, "after")
			closeLog(t, l)
		}
		notes := all(t, dir, audit.Query{Action: audit.NoteMissing})
		if len(notes) != 1 || notes[0].Number != 15 {
			t.Errorf("%s: notes %s, want one with the number 15, behind what the anchor knew", test.name, actions(notes))
		}
	}
}

// TestRewrittenChain finds another chain where the anchor knows a hash. That stays
// visible when the log goes on.
func TestRewrittenChain(t *testing.T) {
	dir, forged := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, forged} {
		l := open(t, d, audit.Options{})
		act(t, l, "in "+filepath.Base(d))
		closeLog(t, l)
	}
	_, texts := read(t, forged)
	if err := os.WriteFile(filepath.Join(dir, audit.FileName(1)), texts[audit.FileName(1)], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if verify(t, dir).OK() {
			t.Error("Verify finds nothing")
		}
		l := open(t, dir, audit.Options{})
		act(t, l, "after")
		closeLog(t, l)
	}
	if got := listed(t, dir); got != "1 device.suspend, 2 audit.damage, 3 device.suspend, 4 device.suspend" {
		t.Errorf("log: %s", got)
	}
}

func TestMissingAnchor(t *testing.T) {
	_, texts := sample(t)
	delete(texts, audit.AnchorName)
	dir := fill(t, texts)
	closeLog(t, open(t, dir, small))
	wantWhole(t, dir, 15)
	if notes := all(t, dir, audit.Query{Kind: audit.Note}); len(notes) != 1 || notes[0].Action != audit.NoteAnchor {
		t.Errorf("notes: %s", actions(notes))
	}
}

// TestFullDisk lets a write stop at each length. No act is reported as written that
// is not, and the log goes on when there is room.
func TestFullDisk(t *testing.T) {
	for room := 0; ; room += 3 {
		dir := t.TempDir()
		d := &disk{room: -1}
		l := openOn(t, dir, d)
		act(t, l, "door-1")
		d.set(func(d *disk) { d.room = room })
		err := l.Act(t.Context(), suspend("door-2"))
		if err == nil && room > 200 {
			return // it fits
		}
		if again := l.Act(t.Context(), suspend("door-2")); !errors.Is(err, syscall.ENOSPC) || !errors.Is(again, syscall.ENOSPC) {
			t.Fatalf("Act with room for %d bytes: %v, %v", room, err, again)
		}
		if s := l.Stats(); !errors.Is(s.Err, syscall.ENOSPC) || s.Failed != 2 {
			t.Fatalf("%+v", s)
		}
		d.set(func(d *disk) { d.room = -1 })
		act(t, l, "door-3")
		closeLog(t, l)
		wantWhole(t, dir, 3)
		if got := listed(t, dir); got != "1 device.suspend, 2 audit.failed x2, 3 device.suspend" {
			t.Fatalf("room for %d bytes: %s", room, got)
		}
	}
}

// TestFailedWriteIsUndone: neither a restart nor Close leaves what was not durable.
func TestFailedWriteIsUndone(t *testing.T) {
	dir := t.TempDir()
	d := &disk{room: -1}
	l := openOn(t, dir, d)
	act(t, l, "door-1")
	d.set(func(d *disk) { d.bad = syscall.EIO; d.repair = syscall.EIO })
	for range 2 { // the second fails because the first can't be undone
		if err := l.Act(t.Context(), suspend("door-2")); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Act: %v", err)
		}
	}
	d.set(func(d *disk) { d.bad = nil; d.repair = nil })
	l.Close()
	if got := listed(t, dir); got != "1 device.suspend, 2 audit.failed x2" {
		t.Errorf("log: %s", got)
	}
	wantWhole(t, dir, 2)
}

func TestRefusalsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d := &disk{room: -1}
		l, err := audit.OpenWith(dir, audit.Options{}, d.open)
		if err != nil {
			t.Fatal(err)
		}
		d.set(func(d *disk) { d.room = 0 })
		l.Refuse(refusal("a", 1))
		synctest.Wait()
		l.Refuse(refusal("a", 2))
		time.Sleep(time.Minute) // that one fails too
		synctest.Wait()
		d.set(func(d *disk) { d.room = -1 })
		time.Sleep(time.Minute)
		closeLog(t, l)
		if got := listed(t, dir); got != "1 audit.lost x2" {
			t.Errorf("log: %s", got)
		}
	})
}

// TestOpenOnAFullDisk: a broker starts without room, and says what it found later.
func TestOpenOnAFullDisk(t *testing.T) {
	_, texts := sample(t)
	delete(texts, audit.AnchorName)
	dir := fill(t, texts)
	d := &disk{room: 0}
	l := openOn(t, dir, d)
	if err := l.Act(t.Context(), suspend("door-2")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Act: %v", err)
	}
	d.set(func(d *disk) { d.room = -1 })
	act(t, l, "door-3")
	closeLog(t, l)
	wantWhole(t, dir, 17)
	if got := actions(all(t, dir, audit.Query{OldestFirst: true, After: 14})); got != "15 audit.anchor, 16 audit.failed x1, 17 device.suspend" {
		t.Errorf("log: %s", got)
	}
}

func refusal(name string, port int) audit.Entry {
	return audit.Entry{
		Actor: audit.Actor{Name: name}, Source: fmt.Sprintf("192.0.2.1:%d", port),
		Action: "connect", Object: name, Reason: "wrong password",
	}
}

func TestRefusalsAreFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l, err := audit.Open(dir, audit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			l.Refuse(refusal("a", i))
		}
		synctest.Wait()
		if got := listed(t, dir); got != "1 connect" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := listed(t, dir); got != "1 connect, 2 connect x999" {
			t.Errorf("after a minute: %s", got)
		}
		time.Sleep(30 * time.Second)
		since := time.Now()
		l.Refuse(refusal("a", 1))
		l.Refuse(refusal("b", 1))
		time.Sleep(time.Hour)
		l.Refuse(refusal("a", 1)) // long after: at once
		synctest.Wait()
		if got := listed(t, dir); got != "1 connect, 2 connect x999, 3 connect, 4 connect x1, 5 connect" {
			t.Errorf("later: %s", got)
		}
		if e := all(t, dir, audit.Query{})[1]; !e.Since.Equal(since) || e.Source != "192.0.2.1:0" {
			t.Errorf("counted since %v from %s, want %v from the first address", e.Since, e.Source, since)
		}
		closeLog(t, l)
		wantWhole(t, dir, 5)
		if s := l.Stats(); s.Refusals != 1003 || s.Lost != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestRefusalsHaveLimits: neither one address nor many can fill the disk or the
// memory, and what is left out is counted.
func TestRefusalsHaveLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l, err := audit.Open(dir, audit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			l.Refuse(refusal(fmt.Sprint("one-", i), i))
		}
		synctest.Wait()
		if n := l.Stats().Last; n != audit.SourceMax+1 {
			t.Errorf("one address wrote %d entries, want %d", n, audit.SourceMax+1)
		}
		for i := range 1000 {
			e := refusal("many", 1)
			e.Source = fmt.Sprintf("198.51.100.%d:1", i)
			l.Refuse(e)
		}
		synctest.Wait()
		if n := l.Stats().Last; n != audit.RefusalsMax {
			t.Errorf("all wrote %d entries, want %d", n, audit.RefusalsMax)
		}
		closeLog(t, l)
		lost := 1000 - (audit.RefusalsMax - audit.SourceMax - 1)
		got := all(t, dir, audit.Query{OldestFirst: true, After: audit.RefusalsMax})
		if want := fmt.Sprintf("257 audit.lost x%d, 258 several x%d", lost, 100-audit.SourceMax-1); actions(got) != want {
			t.Errorf("at the end: %s, want %s", actions(got), want)
		}
		if r := wantWhole(t, dir, audit.RefusalsMax+2); r.Lost != uint64(lost) {
			t.Errorf("Verify says that %d are lost, want %d", r.Lost, lost)
		}
	})
}

func TestRefusalTextsAreCut(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, audit.Options{})
	e := refusal(strings.Repeat("\u20ac", 10_000), 1)
	e.Reason = "\xff\x00\n" + strings.Repeat("x", 1<<20)
	e.After = make(chan int) // nobody asked for it
	l.Refuse(e)
	closeLog(t, l)
	wantWhole(t, dir, 1)
	got := all(t, dir, audit.Query{})[0]
	if n := len(got.Actor.Name); n > audit.TextMax+3 || !strings.HasSuffix(got.Actor.Name, "\u20ac...") {
		t.Errorf("a name of %d bytes, ending in %q", n, got.Actor.Name[n-8:])
	}
}

func TestActsThatAreNotWritten(t *testing.T) {
	l := open(t, t.TempDir(), audit.Options{})
	long := suspend("door-1")
	long.After = strings.Repeat("x", 1<<20)
	unwritable := suspend("door-1")
	unwritable.Before = make(chan int)
	for _, e := range []audit.Entry{long, unwritable} {
		if err := l.Act(t.Context(), e); err == nil || !strings.Contains(err.Error(), "device.suspend") {
			t.Errorf("Act: %v", err)
		}
	}
	long.After = strings.Repeat("x", 1<<20-1000)
	if err := l.Act(t.Context(), long); err != nil {
		t.Errorf("Act with an entry of just the length allowed: %v", err)
	}
	closeLog(t, l)
	if err := l.Act(t.Context(), suspend("door-1")); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("Act after Close: %v", err)
	}
	l.Refuse(refusal("a", 1))
	if s := l.Stats(); s.Lost != 1 {
		t.Errorf("Refuse after Close: %+v", s)
	}
	wantWhole(t, l.Dir(), 1)
}

// TestActsShareWrites: those that wait while one is written go together. Too many are
// refused.
func TestActsShareWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		hold := make(chan struct{})
		d := &disk{room: -1, hold: hold}
		l := openOn(t, dir, d)
		var wg sync.WaitGroup
		start := func(n int) {
			for range n {
				wg.Go(func() { act(t, l, "door-1") })
			}
			synctest.Wait()
		}
		start(1)
		start(audit.ActsMax)
		if err := l.Act(t.Context(), suspend("door-2")); !errors.Is(err, audit.ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		close(hold)
		wg.Wait()
		closeLog(t, l)
		if d.syncs != 2 {
			t.Errorf("%d writes, want 2", d.syncs)
		}
		wantWhole(t, dir, audit.ActsMax+1)
	})
}

// TestActWithEndedContext: an act that waits is taken back.
func TestActWithEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		hold := make(chan struct{})
		l := openOn(t, dir, &disk{room: -1, hold: hold})
		first := make(chan error, 1)
		go func() { first <- l.Act(context.Background(), suspend("door-1")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Act(ctx, suspend("door-2")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Act: %v", err)
		}
		close(hold)
		if err := <-first; err != nil {
			t.Error(err)
		}
		closeLog(t, l)
		wantWhole(t, dir, 1)
	})
}

func TestTotalBytes(t *testing.T) {
	dir := t.TempDir()
	o := audit.Options{FileBytes: 4 << 10, TotalBytes: 12 << 10}
	l := open(t, dir, o)
	for i := range 200 {
		if i%50 == 20 {
			closeLog(t, l)
			l = open(t, dir, o)
		}
		act(t, l, fmt.Sprint("door-", i))
	}
	closeLog(t, l)
	r := verify(t, dir)
	if !r.OK() || r.First == 1 || r.Removed != r.First-1 || r.Bytes > o.TotalBytes+1000 || r.Bytes < o.TotalBytes/2 {
		t.Errorf("%+v", r)
	}
	if n := l.Stats().Bytes; n != r.Bytes {
		t.Errorf("Stats say %d bytes, there are %d", n, r.Bytes)
	}
	// Without the note of the removal, the missing beginning is wrong.
	names, texts := read(t, dir)
	delete(texts, names[0])
	r = verify(t, fill(t, texts))
	if r.OK() || r.Wrong[0].File != names[1] || r.Wrong[0].Line != 1 {
		t.Errorf("the oldest file taken away by somebody: %v", r.Wrong)
	}
	// A crash between note and removal leaves the file: the next removal takes it.
	if err := os.WriteFile(filepath.Join(dir, "unrelated"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, o)
	act(t, l, "last")
	closeLog(t, l)
	if r := verify(t, dir); !r.OK() {
		t.Errorf("%v", r.Wrong)
	}
}

func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l, err := audit.Open(dir, audit.Options{Age: 100 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			act(t, l, fmt.Sprint("door-", i))
			time.Sleep(time.Hour)
		}
		closeLog(t, l)
		r := verify(t, dir)
		if !r.OK() || r.Removed == 0 {
			t.Fatalf("%+v", r)
		}
		acts := all(t, dir, audit.Query{Kind: audit.Act})
		if n := len(acts); n < 100 || n > 115 {
			t.Errorf("%d hours are kept, want about 100", n)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, audit.Options{FileBytes: 4 << 10, TotalBytes: 16 << 10})
	var wg, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{}); err != nil || !r.OK() {
					t.Errorf("Verify meanwhile: %v, %v", r.Wrong, err)
					return
				}
				if _, err := audit.List(t.Context(), dir, audit.Query{Actor: "alice"}); err != nil {
					t.Errorf("List meanwhile: %v", err)
					return
				}
				l.Stats()
			}
		})
	}
	for i := range 8 {
		wg.Go(func() {
			for range 25 {
				act(t, l, "door-1")
				l.Refuse(refusal(fmt.Sprint(i), 1))
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	closeLog(t, l)
	if r := verify(t, dir); !r.OK() {
		t.Error(r.Wrong)
	}
	if s := l.Stats(); s.Acts != 200 || s.Refusals != 200 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}
