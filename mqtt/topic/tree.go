package topic

import (
	"strings"
	"unsafe"
)

// tree is a radix tree of paths, cut at level boundaries: Topic Names, or Topic
// Filters without their '#'.
//
// A node stands for as many levels as no other path parts from, so a tree has
// fewer than two nodes a path however deep the paths are: 65,535 bytes of '/'
// are one node, not 65,536. Nothing walks a tree by recursion, for the depth is
// the peers' to choose.
//
// The order in which siblings are visited is the order in which they came; it
// does not depend on the hash, so equal histories are walked equally.
type tree[T value] struct {
	root node[T] // its label means nothing; it stands for no levels at all
}

// value is what a node carries for its own path.
type value interface {
	// empty reports that the path is only on the way to others.
	empty() bool
}

// node is one or more levels of a path. But for the root, a node whose val is
// empty has at least two kids.
type node[T value] struct {
	label string   // its levels, joined by '/'; "" is one empty level
	short [16]byte // where a short label stands; written once
	kids  *kids[T] // those whose first level is not "+"; nil if there are none
	plus  *node[T] // the one whose first level is "+"

	prev, next *node[T] // siblings in kids, oldest first
	val        T
}

// newNode returns a node with the label. A short one is copied into the node, so
// that a search that has waited for the node need not wait for its label too.
func newNode[T value](label string) *node[T] {
	n := &node[T]{}
	if len(label) > len(n.short) {
		n.label = label
		return n
	}
	copy(n.short[:], label)
	n.label = unsafe.String(&n.short[0], len(label)) // never written again
	return n
}

// firstLevel returns the first level of a path or label.
func firstLevel(path string) string {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return path
}

// commonLevels returns the length in bytes of the levels that a and b have in
// common at their beginning. There must be at least one.
func commonLevels(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if levelEnds(a, i) && levelEnds(b, i) {
		return i
	}
	return strings.LastIndexByte(a[:i], '/')
}

// levelEnds reports whether a level of path ends before byte i.
func levelEnds(path string, i int) bool {
	return i == len(path) || path[i] == '/'
}

// insert returns the node that stands for path, which it makes if need be. The
// caller puts something in its val.
func (t *tree[T]) insert(path string) *node[T] {
	n := &t.root
	for {
		kid := n.kid(firstLevel(path))
		if kid == nil {
			leaf := newNode[T](path)
			n.add(leaf)
			return leaf
		}
		common := commonLevels(kid.label, path)
		if common < len(kid.label) {
			kid = n.split(kid, common)
		}
		if common == len(path) {
			return kid
		}
		n, path = kid, path[common+1:]
	}
}

// split puts a new node between n and its kid, for the first at bytes of the
// kid's label, and returns it. The kid stays the node of its path.
//
// The new label is a copy: it outlives the path that it was cut from, and must
// not hold on to 64 KiB for the sake of a few bytes.
func (n *node[T]) split(kid *node[T], at int) *node[T] {
	upper := newNode[T](strings.Clone(kid.label[:at]))
	n.replace(kid, upper)
	kid.label = kid.label[at+1:]
	upper.add(kid)
	return upper
}

// place is a node and the way that leads there.
type place[T value] struct {
	node, parent, grand *node[T]
}

// find returns the place of path; its node is nil if the tree has none.
func (t *tree[T]) find(path string) place[T] {
	at := place[T]{node: &t.root}
	for {
		kid := at.node.kid(firstLevel(path))
		if kid == nil || !strings.HasPrefix(path, kid.label) || !levelEnds(path, len(kid.label)) {
			return place[T]{}
		}
		at = place[T]{node: kid, parent: at.node, grand: at.parent}
		if len(path) == len(kid.label) {
			return at
		}
		path = path[len(kid.label)+1:]
	}
}

// prune takes the node at a place out of the tree if nothing needs it any more.
func (at place[T]) prune() {
	n := at.node
	if at.parent == nil || !n.val.empty() {
		return
	}
	switch n.degree() {
	case 0:
		at.parent.remove(n)
		place[T]{node: at.parent, parent: at.grand}.prune() // goes no further: it had two kids or more
	case 1:
		at.parent.merge(n)
	}
}

// merge puts the only kid of n, itself a kid of p, in the place of n.
func (p *node[T]) merge(n *node[T]) {
	kid := n.plus
	if kid == nil {
		kid = n.kids.first
	}
	kid.label = n.label + "/" + kid.label
	p.replace(n, kid)
}

// degree returns the number of nodes right below n.
func (n *node[T]) degree() int {
	count := 0
	if n.kids != nil {
		count = n.kids.count
	}
	if n.plus != nil {
		count++
	}
	return count
}

// kid returns the node below n whose first level is level, or nil.
func (n *node[T]) kid(level string) *node[T] {
	if level == "+" {
		return n.plus
	}
	if n.kids == nil {
		return nil
	}
	return n.kids.get(level, hash(level))
}

// add puts kid below n, which has none of the same first level.
func (n *node[T]) add(kid *node[T]) {
	level := firstLevel(kid.label)
	if level == "+" {
		kid.prev, kid.next = nil, nil
		n.plus = kid
		return
	}
	if n.kids == nil {
		n.kids = &kids[T]{}
	}
	n.kids.add(kid, hash(level))
}

// remove takes kid from below n.
func (n *node[T]) remove(kid *node[T]) {
	if kid == n.plus {
		n.plus = nil
		return
	}
	n.kids.remove(kid, hash(firstLevel(kid.label)))
	if n.kids.count == 0 {
		n.kids = nil
	}
}

// replace puts kid in the place of old below n; their first levels are equal.
func (n *node[T]) replace(old, kid *node[T]) {
	if old == n.plus {
		kid.prev, kid.next = nil, nil
		n.plus = kid
		return
	}
	n.kids.replace(old, kid, hash(firstLevel(kid.label)))
}

// oldest returns the first of the nodes below n but for plus, or nil.
func (n *node[T]) oldest() *node[T] {
	if n.kids == nil {
		return nil
	}
	return n.kids.first
}

// walk calls visit for each node but the root, parents first, until visit
// returns false. The path is valid during the call only.
func (t *tree[T]) walk(visit func(path []byte, n *node[T]) bool) {
	type branch struct { // a node to visit, and then its later siblings
		node   *node[T]
		prefix int // bytes of path above node
	}
	var todo []branch
	enter := func(n *node[T], prefix int) {
		if kid := n.oldest(); kid != nil {
			todo = append(todo, branch{kid, prefix})
		}
		if n.plus != nil {
			todo = append(todo, branch{n.plus, prefix})
		}
	}
	var path []byte
	enter(&t.root, 0)
	for len(todo) > 0 {
		b := &todo[len(todo)-1]
		n, prefix := b.node, b.prefix
		if b.node = n.next; b.node == nil {
			todo = todo[:len(todo)-1]
		}
		path = append(path[:prefix], n.label...)
		if !visit(path, n) {
			return
		}
		path = append(path, '/')
		enter(n, len(path))
	}
}

// kids are the nodes below one node, by their first level: a table, and a list
// for walks.
type kids[T value] struct {
	first, last *node[T]
	table[node[T]]
}

// get returns the kid whose first level is level, or nil.
func (k *kids[T]) get(level string, h uint64) *node[T] {
	for i := k.home(h); ; i = k.after(i) {
		s := &k.slots[i]
		if s.at == nil {
			return nil
		}
		if s.hash == h && strings.HasPrefix(s.at.label, level) && levelEnds(s.at.label, len(level)) {
			return s.at
		}
	}
}

// add appends kid, whose first level has the hash h and is new here.
func (k *kids[T]) add(kid *node[T], h uint64) {
	k.table.add(kid, h)
	kid.prev, kid.next = k.last, nil
	if k.last == nil {
		k.first = kid
	} else {
		k.last.next = kid
	}
	k.last = kid
}

// remove takes out kid, whose first level has the hash h.
func (k *kids[T]) remove(kid *node[T], h uint64) {
	k.table.remove(kid, h)
	if kid.prev == nil {
		k.first = kid.next
	} else {
		kid.prev.next = kid.next
	}
	if kid.next == nil {
		k.last = kid.prev
	} else {
		kid.next.prev = kid.prev
	}
	kid.prev, kid.next = nil, nil
}

// replace puts kid in the place of old; the first level of both has the hash h.
func (k *kids[T]) replace(old, kid *node[T], h uint64) {
	k.slots[k.find(old, h)].at = kid
	kid.prev, kid.next = old.prev, old.next
	old.prev, old.next = nil, nil
	if kid.prev == nil {
		k.first = kid
	} else {
		kid.prev.next = kid
	}
	if kid.next == nil {
		k.last = kid
	} else {
		kid.next.prev = kid
	}
}
