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
		if s.node != nil {
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
	for pattern, b := range t.exact {
		count += b.check(tb)
		if b.empty() || wild(pattern) {
			tb.Errorf("%q among the filters without wildcards, with %d entries", pattern, len(b.entries))
		}
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
	n := len(b.entries)
	if n > indexAbove && b.index == nil || n <= indexBelow && b.index != nil {
		tb.Errorf("%d entries, index = %v", n, b.index != nil)
	}
	if b.index != nil && len(b.index) != n {
		tb.Errorf("%d entries, %d in the index", n, len(b.index))
	}
	for i, e := range b.entries {
		if b.find(e.key) != i {
			tb.Errorf("entry %d found at %d", i, b.find(e.key))
		}
	}
	for _, e := range b.entries[n:cap(b.entries)] {
		if any(e) != any(entry[K, V]{}) { // the tests use comparable values
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
