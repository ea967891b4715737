package audit_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/audit"
)

// small lets a log of a few entries have several files.
var small = audit.Options{FileBytes: 4 << 10}

func open(t *testing.T, dir string, o audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func closeLog(t *testing.T, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func act(t *testing.T, l *audit.Log, object string) {
	t.Helper()
	if err := l.Act(t.Context(), suspend(object)); err != nil {
		t.Fatal(err)
	}
}

func suspend(object string) audit.Entry {
	return audit.Entry{
		Actor: audit.Actor{Name: "alice", Role: "operator", How: "token"}, Source: "192.0.2.7:40312",
		Action: "device.suspend", Object: object, Reason: "stolen <&>",
		Before: map[string]string{"state": "active"}, After: map[string]string{"state": "suspended"},
	}
}

func verify(t *testing.T, dir string) audit.Report {
	t.Helper()
	r, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantWhole(t *testing.T, dir string, entries uint64) audit.Report {
	t.Helper()
	r := verify(t, dir)
	if !r.OK() || r.Entries != entries {
		t.Fatalf("Verify found %d entries and wrong: %v, want %d entries and nothing wrong", r.Entries, r.Wrong, entries)
	}
	return r
}

// all reads a log with pages of three.
func all(t *testing.T, dir string, q audit.Query) []audit.Entry {
	t.Helper()
	q.Limit = 3
	var found []audit.Entry
	for {
		p, err := audit.List(t.Context(), dir, q)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, p.Entries...)
		if p.Next == 0 {
			return found
		}
		q.After = p.Next
	}
}

func actions(entries []audit.Entry) string {
	var out []string
	for _, e := range entries {
		s := fmt.Sprintf("%d %s", e.Number, e.Action)
		if e.Count > 0 {
			s += fmt.Sprintf(" x%d", e.Count)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func listed(t *testing.T, dir string) string {
	t.Helper()
	return actions(all(t, dir, audit.Query{OldestFirst: true}))
}

// read returns the lines of the log with their breaks, file by file.
func read(t *testing.T, dir string) (names []string, texts map[string][]byte) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	texts = make(map[string][]byte)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		texts[e.Name()] = text
		if e.Name() != audit.AnchorName {
			names = append(names, e.Name())
		}
	}
	return names, texts
}

// fill makes a directory of the files given.
func fill(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestChain checks a log as the package comment says, without this package.
func TestChain(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, audit.Options{})
	for i := range 3 {
		act(t, l, fmt.Sprintf("door-%d", i))
	}
	closeLog(t, l)
	names, texts := read(t, dir)
	if len(names) != 1 || names[0] != "audit-00000000000000000001.jsonl" {
		t.Fatalf("files %v", names)
	}
	prev := strings.Repeat("0", 64)
	form := regexp.MustCompile(`^(\{"n":\d+,.*,"prev":"([0-9a-f]{64})"),"hash":"([0-9a-f]{64})"\}$`)
	for i, line := range strings.Split(strings.TrimSuffix(string(texts[names[0]]), "\n"), "\n") {
		m := form.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %d has another form: %s", i+1, line)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(m[1]+"}"))); sum != m[3] || m[2] != prev {
			t.Errorf("line %d: prev %s and hash %s, want %s and %s", i+1, m[2], m[3], prev, sum)
		}
		prev = m[3]
	}
	if want := fmt.Sprintf("{\"n\":3,\"hash\":\"%s\"}\n", prev); string(texts[audit.AnchorName]) != want {
		t.Errorf("anchor %q, want %q", texts[audit.AnchorName], want)
	}
}

func TestEntryComesBack(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, audit.Options{})
	before := time.Now().Add(-time.Second)
	act(t, l, "door-1")
	got := all(t, dir, audit.Query{})[0]
	if got.Time.Before(before) || got.Time.Location() != time.UTC {
		t.Errorf("time %v", got.Time)
	}
	want := suspend("door-1")
	want.Number, want.Time, want.Kind, want.Hash = 1, got.Time, audit.Act, got.Hash
	want.Before, want.After = json.RawMessage(`{"state":"active"}`), json.RawMessage(`{"state":"suspended"}`)
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	shown, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	_, texts := read(t, dir)
	var a, b map[string]any
	if err := errors.Join(json.Unmarshal(shown, &a), json.Unmarshal(texts["audit-00000000000000000001.jsonl"], &b)); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("MarshalJSON wrote %s\nand the log has %s", shown, texts["audit-00000000000000000001.jsonl"])
	}
}

// TestHistories appends, closes and opens again at random.
func TestHistories(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			dir := t.TempDir()
			var want []string
			l := open(t, dir, small)
			for range 60 {
				if r.IntN(5) == 0 {
					closeLog(t, l)
					l = open(t, dir, small)
				}
				object := fmt.Sprintf("d%d", r.IntN(1000)) + strings.Repeat("x", r.IntN(600))
				act(t, l, object)
				want = append(want, object)
			}
			closeLog(t, l)
			if report := wantWhole(t, dir, 60); report.Files < 3 || report.First != 1 || report.Last != 60 {
				t.Errorf("%d files with entries %d to %d", report.Files, report.First, report.Last)
			}
			oldest := all(t, dir, audit.Query{OldestFirst: true})
			newest := all(t, dir, audit.Query{})
			slices.Reverse(newest)
			if actions(oldest) != actions(newest) {
				t.Errorf("oldest first: %s\nnewest first: %s", actions(oldest), actions(newest))
			}
			for i, e := range oldest {
				if e.Object != want[i] {
					t.Errorf("entry %d is about %q, want %q", i+1, e.Object, want[i])
				}
			}
		})
	}
}

// sample is a log of two files.
func sample(t *testing.T) (names []string, texts map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	l := open(t, dir, small)
	for i := range 14 {
		act(t, l, fmt.Sprintf("door-%d", i))
	}
	closeLog(t, l)
	wantWhole(t, dir, 14)
	names, texts = read(t, dir)
	if len(names) != 2 {
		t.Fatalf("%d files, want 2", len(names))
	}
	return names, texts
}

func TestEveryFlipIsFound(t *testing.T) {
	names, texts := sample(t)
	dir := fill(t, texts)
	for _, name := range append(names, audit.AnchorName) {
		for i := range texts[name] {
			bad := slices.Clone(texts[name])
			bad[i] ^= 1 << (i % 8)
			if err := os.WriteFile(filepath.Join(dir, name), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r := verify(t, dir)
			if r.OK() {
				t.Fatalf("%s: byte %d of %d flipped (%q to %q): nothing found", name, i, len(bad), texts[name][i], bad[i])
			}
			line := 1 + strings.Count(string(texts[name][:i]), "\n")
			if w := r.Wrong[0]; name != audit.AnchorName && (w.File != name || w.Line != line) {
				t.Fatalf("byte %d of %s, in line %d: found %v", i, name, line, w)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), texts[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryLineThatIsNotAsItWasIsFound(t *testing.T) {
	names, texts := sample(t)
	dir := fill(t, texts)
	check := func(name, what string, lines []string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		if verify(t, dir).OK() {
			t.Errorf("%s: %s: nothing found", name, what)
		}
	}
	for _, name := range names {
		lines := strings.SplitAfter(strings.TrimSuffix(string(texts[name]), "\n"), "\n")
		lines[len(lines)-1] += "\n"
		for i := range lines {
			check(name, fmt.Sprintf("line %d deleted", i+1), slices.Delete(slices.Clone(lines), i, i+1))
			check(name, fmt.Sprintf("line %d twice", i+1), slices.Insert(slices.Clone(lines), i, lines[i]))
			check(name, fmt.Sprintf("those from line %d on deleted", i+1), lines[:i])
			check(name, fmt.Sprintf("line %d empty", i+1), slices.Insert(slices.Clone(lines), i, "\n"))
			for j := range i {
				swapped := slices.Clone(lines)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				check(name, fmt.Sprintf("lines %d and %d swapped", j+1, i+1), swapped)
			}
		}
		check(name, "the last line break missing", []string{strings.TrimSuffix(string(texts[name]), "\n")})
		check(name, "a byte more", []string{string(texts[name]), "x\n"})
		if err := os.WriteFile(filepath.Join(dir, name), texts[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name := range texts {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if verify(t, dir).OK() {
			t.Errorf("%s deleted: nothing found", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), texts[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantWhole(t, dir, 14)
}

// TestRewrittenLog lets an attacker compute the whole chain anew: an anchor that was
// kept elsewhere shows it.
func TestRewrittenLog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, audit.Options{})
	act(t, l, "door-1")
	closeLog(t, l)
	kept, err := audit.ReadAnchor(dir)
	if err != nil {
		t.Fatal(err)
	}
	forged := t.TempDir()
	l = open(t, forged, audit.Options{})
	act(t, l, "door-2")
	act(t, l, "door-3")
	closeLog(t, l)
	wantWhole(t, forged, 2)
	r, err := audit.Verify(t.Context(), forged, audit.VerifyOptions{Anchors: []audit.Anchor{kept}})
	if err != nil || r.OK() || r.Wrong[0].Number != 1 {
		t.Errorf("Verify with an anchor from elsewhere: %v, %v", r.Wrong, err)
	}
}

func TestVerifyReportsProgress(t *testing.T) {
	_, texts := sample(t)
	var last audit.Progress
	calls := 0
	_, err := audit.Verify(t.Context(), fill(t, texts), audit.VerifyOptions{Progress: func(p audit.Progress) {
		if p.Bytes < last.Bytes || p.Bytes > p.TotalBytes {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
		calls++
	}})
	if err != nil || calls != 2 || last.Bytes != last.TotalBytes || last.Entries != 14 {
		t.Errorf("%d calls, at last %+v; %v", calls, last, err)
	}
}

func TestVerifyNothing(t *testing.T) {
	if _, err := audit.Verify(t.Context(), filepath.Join(t.TempDir(), "none"), audit.VerifyOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Verify of no directory: %v", err)
	}
	wantWhole(t, t.TempDir(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, texts := sample(t)
	many := slices.Repeat(texts["audit-00000000000000000001.jsonl"], 40)
	dir := fill(t, map[string][]byte{"audit-00000000000000000001.jsonl": many})
	if _, err := audit.Verify(ctx, dir, audit.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify with a context that has ended: %v", err)
	}
}

func TestQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l, err := audit.Open(dir, small)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for i := range 40 { // an hour apart
			e := suspend(fmt.Sprintf("door-%d", i%4))
			e.Action = []string{"device.suspend", "device.resume", "user.add"}[i%3]
			e.Actor.Name = []string{"alice", "bob"}[i%2]
			if err := l.Act(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		l.Refuse(audit.Entry{Actor: audit.Actor{Name: "door-1"}, Source: "192.0.2.1:1", Action: "connect", Reason: "suspended"})
		closeLog(t, l)
		for _, test := range []struct {
			name string
			q    audit.Query
			want func(i int) bool // is act i among them?
		}{
			{"actor", audit.Query{Actor: "bob"}, func(i int) bool { return i%2 == 1 }},
			{"action", audit.Query{Action: "device.resume"}, func(i int) bool { return i%3 == 1 }},
			{"action by noun", audit.Query{Action: "device."}, func(i int) bool { return i%3 < 2 }},
			{"no such noun", audit.Query{Action: "dev."}, func(i int) bool { return false }},
			{"object", audit.Query{Object: "door-3"}, func(i int) bool { return i%4 == 3 }},
			{"kind", audit.Query{Kind: audit.Act}, func(i int) bool { return true }},
			{"since", audit.Query{Kind: audit.Act, Since: start.Add(30 * time.Hour)}, func(i int) bool { return i >= 30 }},
			{"until", audit.Query{Until: start.Add(5 * time.Hour)}, func(i int) bool { return i < 5 }},
			{"since and until", audit.Query{Since: start.Add(10 * time.Hour), Until: start.Add(11 * time.Hour)}, func(i int) bool { return i == 10 }},
			{"several", audit.Query{Actor: "alice", Action: "user.add", Object: "door-0"}, func(i int) bool { return i%12 == 8 }},
		} {
			var want []uint64
			for i := range 40 {
				if test.want(i) {
					want = append(want, uint64(i+1))
				}
			}
			for _, oldest := range []bool{true, false} {
				q := test.q
				q.OldestFirst = oldest
				var got []uint64
				for _, e := range all(t, dir, q) {
					got = append(got, e.Number)
				}
				if !oldest {
					slices.Reverse(got)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s, oldest first %v: %v, want %v", test.name, oldest, got, want)
				}
			}
		}
		if got := all(t, dir, audit.Query{Kind: audit.Refusal}); len(got) != 1 || got[0].Number != 41 {
			t.Errorf("refusals: %s", actions(got))
		}
	})
}

func TestQueryLimits(t *testing.T) {
	for _, limit := range []int{-1, audit.LimitMax + 1} {
		if _, err := audit.List(t.Context(), t.TempDir(), audit.Query{Limit: limit}); err == nil {
			t.Errorf("List with the limit %d: no error", limit)
		}
	}
	_, texts := sample(t)
	p, err := audit.List(t.Context(), fill(t, texts), audit.Query{Limit: 14})
	if err != nil || len(p.Entries) != 14 || p.Next != 0 {
		t.Errorf("a page with room for all: %d entries, next %d, %v", len(p.Entries), p.Next, err)
	}
}

func TestListPassesOverDamage(t *testing.T) {
	names, texts := sample(t)
	texts[names[0]][20] ^= 1
	for _, oldest := range []bool{true, false} {
		p, err := audit.List(t.Context(), fill(t, texts), audit.Query{OldestFirst: oldest})
		if err != nil || len(p.Entries) != 13 || p.Damaged != 1 {
			t.Errorf("oldest first %v: %d entries, %d damaged, %v", oldest, len(p.Entries), p.Damaged, err)
		}
	}
}

func TestSecretIsNotShown(t *testing.T) {
	const secret = audit.Secret("hunter2")
	dir := t.TempDir()
	l := open(t, dir, audit.Options{})
	e := suspend("u")
	e.After = map[string]any{"user": struct{ Password audit.Secret }{secret}}
	if err := l.Act(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	_, texts := read(t, dir)
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "s", secret)
	shown := fmt.Sprintf("%s %v %+v %#v %q %x %d", secret, secret, secret, secret, secret, secret, secret) +
		logged.String() + string(texts["audit-00000000000000000001.jsonl"])
	if strings.Contains(shown, "hunter2") || strings.Contains(shown, fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("the secret is shown: %s", shown)
	}
	if !strings.Contains(string(texts["audit-00000000000000000001.jsonl"]), `"after":{"user":{"Password":"***"}}`) {
		t.Errorf("the log has %s", texts["audit-00000000000000000001.jsonl"])
	}
	if empty, err := json.Marshal(audit.Secret("")); string(empty) != `""` || err != nil {
		t.Errorf("an empty Secret: %s, %v", empty, err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []audit.Options{
		{FileBytes: -1}, {FileBytes: 100}, {FileBytes: 1 << 20, TotalBytes: 1 << 20}, {Age: -1}, {FoldEvery: -1},
	} {
		if _, err := audit.Open(t.TempDir(), o); err == nil {
			t.Errorf("Open with %+v: no error", o)
		}
	}
}
