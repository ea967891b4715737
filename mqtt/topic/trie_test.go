package topic

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// sorted returns what Match finds, in order.
func sorted(t *Trie[int, int], name string) []int {
	found := t.Match(name, nil)
	slices.Sort(found)
	return found
}

// Random histories of Set and Delete, compared with the list at each step. Few
// kinds of levels make filters collide; many make nodes with large tables.
func TestTrieIsAList(t *testing.T) {
	for round := range 60 {
		r := rand.New(rand.NewPCG(4, uint64(round)))
		kinds, keys, steps := 2+r.IntN(len(levels)-1), 1+r.IntN(30), 400
		var trie Trie[int, int]
		var twin twinTrie
		for step := range steps {
			pattern, key := randomPattern(r, kinds), r.IntN(keys)
			filling := step < steps/2
			if !filling && len(twin) > 0 && r.IntN(4) > 0 {
				e := twin[r.IntN(len(twin))]
				pattern, key = e.pattern, e.key
			}
			if filling == (r.IntN(4) > 0) {
				wantOld, want := twin.set(pattern, key, step)
				if old, ok := trie.Set(pattern, key, step); old != wantOld || ok != want {
					t.Fatalf("Set(%q, %d) = %d, %v, want %d, %v", pattern, key, old, ok, wantOld, want)
				}
			} else {
				wantOld, want := twin.delete(pattern, key)
				if old, ok := trie.Delete(pattern, key); old != wantOld || ok != want {
					t.Fatalf("Delete(%q, %d) = %d, %v, want %d, %v", pattern, key, old, ok, wantOld, want)
				}
			}
			trie.check(t)
			if name := randomName(r, kinds); !slices.Equal(sorted(&trie, name), twin.match(name)) {
				t.Fatalf("Match(%q) = %v, want %v, with %v", name, sorted(&trie, name), twin.match(name), twin)
			}
		}
		compareAll(t, &trie, twin)
		emptyTrie(t, &trie, twin)
	}
}

// compareAll compares what All yields with the twin.
func compareAll(t *testing.T, trie *Trie[int, int], twin twinTrie) {
	t.Helper()
	var all twinTrie
	trie.All(func(pattern string, key, v int) bool {
		all = append(all, twinEntry{pattern, key, v})
		return true
	})
	byText := func(a, b twinEntry) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(all, byText)
	want := slices.SortedFunc(slices.Values(twin), byText)
	if !slices.Equal(all, want) {
		t.Fatalf("All() yields %v, want %v", all, want)
	}
	for stop := range all {
		seen := 0
		trie.All(func(string, int, int) bool { seen++; return seen <= stop })
		if seen != stop+1 {
			t.Fatalf("All went on to entry %d after yield returned false at entry %d", seen, stop+1)
		}
	}
}

// emptyTrie removes everything, and asks that nothing be left behind.
func emptyTrie(t *testing.T, trie *Trie[int, int], twin twinTrie) {
	t.Helper()
	for _, e := range twin {
		if old, ok := trie.Delete(e.pattern, e.key); !ok || old != e.v {
			t.Fatalf("Delete(%q, %d) = %d, %v, want %d", e.pattern, e.key, old, ok, e.v)
		}
		trie.check(t)
	}
	if !reflect.ValueOf(*trie).IsZero() {
		t.Fatalf("an emptied Trie is not the zero Trie: %+v", *trie)
	}
}

// All filters of up to three levels at once, asked for all names of up to four.
func TestTrieExhaustively(t *testing.T) {
	patterns := enumerate([]string{"", "a", "b", "$", "+", "#"}, 3, func(s string) error {
		_, err := ParseFilter(s)
		return err
	})
	var trie Trie[int, int]
	var twin twinTrie
	for i, p := range patterns {
		trie.Set(p, 0, i)
		twin.set(p, 0, i)
	}
	trie.check(t)
	for _, name := range enumerate([]string{"", "a", "b", "$", "z"}, 4, CheckName) {
		if got, want := sorted(&trie, name), twin.match(name); !slices.Equal(got, want) {
			t.Errorf("Match(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestTrieZero(t *testing.T) {
	var trie Trie[string, int]
	if got := trie.Match("a/b", nil); got != nil {
		t.Errorf("Match = %v, want nil", got)
	}
	for _, pattern := range []string{"a", "#", "+", "a/#"} {
		if _, ok := trie.Delete(pattern, "k"); ok {
			t.Errorf("Delete(%q) found something", pattern)
		}
	}
	trie.All(func(pattern, key string, _ int) bool { t.Errorf("All yields %q, %q", pattern, key); return true })
}

func TestTrieMatchAppends(t *testing.T) {
	var trie Trie[string, string]
	trie.Set("a/#", "k", "below")
	trie.Set("a", "k", "exact")
	trie.Set("+", "k", "plus")
	trie.Set("#", "k", "all")
	want := []string{"before", "all", "below", "plus", "exact"}
	if got := trie.Match("a", []string{"before"}); !slices.Equal(got, want) {
		t.Errorf("Match = %v, want %v", got, want)
	}
}

// One filter with many keys: a hot topic.
func TestTrieManyKeys(t *testing.T) {
	const keys = 5000
	for _, pattern := range []string{"a/b", "a/+", "a/#", "#"} {
		var trie Trie[int, int]
		for k := range keys {
			trie.Set(pattern, k, k)
		}
		trie.check(t)
		if old, replaced := trie.Set(pattern, 7, -7); !replaced || old != 7 {
			t.Errorf("Set of an old key = %d, %v, want 7", old, replaced)
		}
		for k := range keys {
			if k%3 != 0 {
				trie.Delete(pattern, k)
			}
		}
		trie.check(t)
		got := sorted(&trie, "a/b")
		if len(got) != (keys+2)/3 || got[1] != 3 {
			t.Errorf("%q: %d values left, the second %d, want %d and 3", pattern, len(got), got[1], (keys+2)/3)
		}
		for k := range keys {
			trie.Delete(pattern, k)
		}
		if !reflect.ValueOf(trie).IsZero() {
			t.Errorf("%q: an emptied Trie is not the zero Trie", pattern)
		}
	}
}

// A client that comes and goes at the edge must not build an index each time.
func TestBagIndexHasHysteresis(t *testing.T) {
	var b bag[int, int]
	for k := range indexAbove + 1 {
		b.set(k, k)
	}
	if n := testing.AllocsPerRun(100, func() { b.delete(0); b.set(0, 0) }); n != 0 {
		t.Errorf("leaving and coming back at %d keys allocates %v times", indexAbove+1, n)
	}
}

func TestTrieMatchDoesNotAllocate(t *testing.T) {
	var trie Trie[int, int]
	name := strings.TrimSuffix(strings.Repeat("a/", 50), "/")
	for i, pattern := range []string{"a", "#", "a/#", "+/#", name, name + "/#", "a/+/a/#", "a/a/+/#", "+/+/a/b"} {
		trie.Set(pattern, i, i)
	}
	dst := make([]int, 0, 64)
	if n := testing.AllocsPerRun(100, func() { dst = trie.Match(name, dst[:0]) }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
	if want := 7; len(dst) != want {
		t.Errorf("Match found %v, want %d values", dst, want)
	}
}

// Filters as deep as 65,535 bytes allow are nodes and bytes in proportion to
// their own size, and match without recursion.
func TestTrieTopicBombs(t *testing.T) {
	deep := slashes(BytesMax)
	pluses := strings.Repeat("+/", BytesMax/2) + "+"
	for _, test := range []struct {
		patterns []string
		name     string
		want     int
	}{
		{[]string{deep}, deep, 1},
		{[]string{pluses}, slashes(BytesMax / 2), 1},
		{[]string{pluses}, deep, 0},
		{[]string{pluses, "+/+/#", slashes(BytesMax-1) + "#", "/+/" + slashes(BytesMax-3)}, deep, 2}, // a '+' leaves no room for 65,536 levels
		{[]string{"#", "+/#", "/#", deep[:BytesMax-1] + "+"}, deep, 3},
		{[]string{strings.Repeat("a/", BytesMax/2) + "#"}, strings.Repeat("a/", BytesMax/2) + "b", 1},
	} {
		var trie Trie[int, int]
		bytes := 0
		for i, p := range test.patterns {
			trie.Set(p, i, i)
			bytes += len(p)
		}
		trie.check(t)
		if got := trie.Match(test.name, nil); len(got) != test.want {
			t.Errorf("%d filters such as %s: %d match %s, want %d", len(test.patterns), excerpt(test.patterns[0]), len(got), excerpt(test.name), test.want)
		}
		if nodes, labels := trie.tree.nodes(); nodes > 2*len(test.patterns) || labels > bytes {
			t.Errorf("%d filters of %d bytes are %d nodes with %d bytes", len(test.patterns), bytes, nodes, labels)
		}
		for i, p := range test.patterns {
			trie.Delete(p, i)
		}
		if !reflect.ValueOf(trie).IsZero() {
			t.Errorf("an emptied Trie is not the zero Trie")
		}
	}
}

// 4,095 filters, one inside the other: a tree as deep as it gets.
func TestTrieDeepChain(t *testing.T) {
	const depth = 4095
	var trie Trie[int, int]
	name := strings.Repeat("a/", depth) + "a"
	for i := range depth {
		trie.Set(name[:2*i]+"a/#", 0, i)
	}
	trie.check(t)
	if got := len(trie.Match(name, nil)); got != depth {
		t.Errorf("%d filters match, want %d", got, depth)
	}
	count := 0
	trie.All(func(string, int, int) bool { count++; return true })
	if count != depth {
		t.Errorf("All yields %d filters, want %d", count, depth)
	}
	for i := range depth {
		trie.Delete(name[:2*i]+"a/#", 0)
	}
	trie.check(t)
}

// All choices of '+' or 'a' in each level but the last, which never matches:
// the worst that filters can do. The places in the tree that are looked at are
// no more than its nodes, and a long level costs its bytes once.
func TestTrieManyActiveNodes(t *testing.T) {
	const depth = 10
	var trie Trie[int, int]
	for choice := range 1 << depth {
		pattern := ""
		for level := range depth {
			pattern += []string{"a/", "+/"}[choice>>level&1]
		}
		trie.Set(pattern+"+/b", choice, choice)
	}
	trie.check(t)
	name := strings.Repeat("a/", depth) + strings.Repeat("x", BytesMax-2*depth-2)
	if got := trie.Match(name, nil); len(got) != 0 {
		t.Errorf("%d match, want none", len(got))
	}
	if got := trie.Match(name+"/b", nil); len(got) != 1<<depth {
		t.Errorf("%d match, want %d", len(got), 1<<depth)
	}
}

// A filter that is gone must not be kept alive by the nodes that it left: a
// client could else make a few bytes hold 64 KiB.
func TestTrieForgetsDeletedFilters(t *testing.T) {
	const filters = 200
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	var trie Trie[int, int]
	for i := range filters {
		prefix := fmt.Sprintf("%d/+", i)
		long := prefix + "/" + strings.Repeat("x", BytesMax-len(prefix)-1)
		trie.Set(long, 0, 0)
		trie.Set(prefix+"/y", 0, 0) // splits the label of long
		trie.Set(prefix+"/z", 0, 0)
		trie.Delete(long, 0)
	}
	if grown := heap() - before; grown > filters*BytesMax/10 {
		t.Errorf("%d bytes in use after %d long filters were deleted", grown, filters)
	}
	if trie.Len() != 2*filters {
		t.Errorf("Len() = %d, want %d", trie.Len(), 2*filters)
	}
}

// Equal histories give equal orders: simulations rely on it.
func TestTrieOrderIsReproducible(t *testing.T) {
	build := func() *Trie[int, int] {
		r := rand.New(rand.NewPCG(1, 2))
		trie := &Trie[int, int]{}
		for i := range 2000 {
			trie.Set(randomPattern(r, len(levels)), r.IntN(3), i)
			trie.Delete(randomPattern(r, len(levels)), r.IntN(3))
		}
		return trie
	}
	a, b := build(), build()
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		name := randomName(r, len(levels))
		if got, want := a.Match(name, nil), b.Match(name, nil); !slices.Equal(got, want) {
			t.Fatalf("Match(%q) = %v, and %v the second time", name, got, want)
		}
	}
}

// FuzzMatch runs a script of one operation a line, "+filter", "-filter" or a
// name to match, on a Trie and on its twin.
func FuzzMatch(f *testing.F) {
	f.Add("+a/+\n+a/b\n+#\na/b\n-a/+\na/b")
	f.Add("+a/#\n+a/b/c/#\n+a/b/d/+\n-a/b/c/#\na\na/b/d/e\n$a")
	f.Add("+$SYS/#\n++/x\n$SYS/x\n+/#\n/\n//")
	f.Add("+/////+\n+//+\n///\n-/////+\n///")
	f.Fuzz(func(t *testing.T, script string) {
		var trie Trie[int, int]
		var twin twinTrie
		for i, line := range strings.Split(script, "\n") {
			op, arg := line, ""
			if line != "" {
				op, arg = line[:1], line[1:]
			}
			filter, err := ParseFilter(arg)
			if err != nil {
				op = "" // no filter
			}
			switch key := i % 3; op {
			case "+":
				wantOld, want := twin.set(filter.Pattern, key, i)
				if old, ok := trie.Set(filter.Pattern, key, i); old != wantOld || ok != want {
					t.Fatalf("Set(%q) = %d, %v, want %d, %v", filter.Pattern, old, ok, wantOld, want)
				}
			case "-":
				wantOld, want := twin.delete(filter.Pattern, key)
				if old, ok := trie.Delete(filter.Pattern, key); old != wantOld || ok != want {
					t.Fatalf("Delete(%q) = %d, %v, want %d, %v", filter.Pattern, old, ok, wantOld, want)
				}
			}
			if CheckName(line) != nil {
				continue
			}
			if got, want := sorted(&trie, line), twin.match(line); !slices.Equal(got, want) {
				t.Fatalf("Match(%q) = %v, want %v", line, got, want)
			}
		}
		trie.check(t)
		emptyTrie(t, &trie, twin)
	})
}
