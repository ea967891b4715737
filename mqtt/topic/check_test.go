package topic

import (
	"strings"
	"testing"
)

// check compares a tree with what its comments promise.
func (t *tree[T]) check(tb testing.TB) {
	tb.Helper()
	t.root.checkKids(tb)
	t.walk(func(path []byte, n *node[T]) bool {
		if n.val.empty() && n.degree() < 2 {
			tb.Errorf("node %q carries nothing and has %d kids", path, n.degree())
		}
		n.checkKids(tb)
		return true
	})
}

func (n *node[T]) checkKids(tb testing.TB) {
	tb.Helper()
	if n.plus != nil && (firstLevel(n.plus.label) != "+" || n.plus.next != nil || n.plus.prev != nil) {
		tb.Errorf("plus %q of node %q is no plus, or has siblings", n.plus.label, n.label)
	}
	k := n.kids
	if k == nil {
		return
	}
	count := 0
	var prev *node[T]
	for kid := k.first; kid != nil; prev, kid = kid, kid.next {
		count++
		if kid.prev != prev {
			tb.Errorf("node %q: %q is not linked back", n.label, kid.label)
		}
		if got := n.kid(firstLevel(kid.label)); got != kid {
			tb.Errorf("node %q: kid %q is listed but not found", n.label, kid.label)
		}
	}
	taken := 0
	for _, s := range k.slots {
		if s.at != nil {
			taken++
		}
	}
	if k.last != prev || count != k.count || taken != count || count == 0 {
		tb.Errorf("node %q: %d kids listed, %d in the table, count %d", n.label, count, taken, k.count)
	}
	if count > len(k.slots)/4*3 || len(k.slots) > slotsMin && count < len(k.slots)/8 {
		tb.Errorf("node %q: %d slots for %d kids", n.label, len(k.slots), count)
	}
}

// nodes counts the nodes of a tree, and the bytes of their labels.
func (t *tree[T]) nodes() (nodes, labelBytes int) {
	t.walk(func(_ []byte, n *node[T]) bool {
		nodes++
		labelBytes += len(n.label)
		return true
	})
	return nodes, labelBytes
}

func (t *Trie[K, V]) check(tb testing.TB) {
	tb.Helper()
	t.tree.check(tb)
	count := 0
	leaves := 0
	for i, s := range t.exact.slots {
		if s.at == nil {
			continue
		}
		leaves++
		count += s.at.bag.check(tb)
		if s.at.bag.empty() || wild(s.at.pattern) {
			tb.Errorf("%q among the filters without wildcards, empty: %v", s.at.pattern, s.at.bag.empty())
		}
		if got := t.exact.end(t.exact.begin(s.at.pattern), s.at.pattern); got != s.at {
			tb.Errorf("%q in slot %d is not found", s.at.pattern, i)
		}
	}
	if leaves != t.exact.count {
		tb.Errorf("%d filters without wildcards, count = %d", leaves, t.exact.count)
	}
	count += t.tree.root.val.below.check(tb)
	t.tree.walk(func(path []byte, n *node[bags[K, V]]) bool {
		count += n.val.here.check(tb) + n.val.below.check(tb)
		if !n.val.here.empty() && !wild(string(path)) {
			tb.Errorf("%q has no wildcards and is in the tree", path)
		}
		return true
	})
	if count != t.Len() {
		tb.Errorf("%d entries, Len() = %d", count, t.Len())
	}
}

// check returns the number of entries.
func (b *bag[K, V]) check(tb testing.TB) int {
	tb.Helper()
	if b.many == nil {
		if b.some {
			return 1
		}
		if any(b.only) != any(entry[K, V]{}) { // the tests use comparable values
			tb.Errorf("a removed entry is still there")
		}
		return 0
	}
	if !b.some || any(b.only) != any(entry[K, V]{}) {
		tb.Errorf("a bag with several entries: some = %v, only = %v", b.some, b.only)
	}
	return b.many.check(tb)
}

// check returns the number of entries.
func (c *crowd[K, V]) check(tb testing.TB) int {
	tb.Helper()
	n := len(c.entries)
	if n < 2 {
		tb.Errorf("a crowd of %d", n)
	}
	if n > indexAbove && c.index == nil || n <= indexBelow && c.index != nil {
		tb.Errorf("%d entries, index = %v", n, c.index != nil)
	}
	if c.index != nil && len(c.index) != n {
		tb.Errorf("%d entries, %d in the index", n, len(c.index))
	}
	for i, e := range c.entries {
		if c.find(e.key) != i {
			tb.Errorf("entry %d found at %d", i, c.find(e.key))
		}
	}
	for _, e := range c.entries[n:cap(c.entries)] {
		if any(e) != any(entry[K, V]{}) {
			tb.Errorf("a removed entry is still there")
		}
	}
	return n
}

func (n *Names[V]) check(tb testing.TB) {
	tb.Helper()
	n.tree.check(tb)
	count := 0
	n.tree.walk(func(path []byte, at *node[named[V]]) bool {
		if at.val.empty() {
			return true
		}
		count++
		if at.val.name != string(path) || n.at[at.val.name] != at {
			tb.Errorf("name %q at path %q is not the one in the map", at.val.name, path)
		}
		return true
	})
	if count != n.Len() {
		tb.Errorf("%d names in the tree, Len() = %d", count, n.Len())
	}
}

// slashes returns a name of n empty levels and one more.
func slashes(n int) string { return strings.Repeat("/", n) }
