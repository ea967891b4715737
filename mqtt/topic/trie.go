package topic

import "strings"

// Trie maps Topic Filters to values, one value for each pair of filter and key:
// the subscriptions of a broker, with the Session as the key. The zero Trie is
// empty and ready to use.
//
// Filters are patterns without $share/<ShareName>/, as in [Filter.Pattern], and
// must be valid; put the ShareName into the key or the value. The Trie keeps the
// strings it is given.
//
// Filters without wildcards, most of them as a rule, stand in one hash table;
// the others in a tree of levels. Memory is bounded by the bytes of the filters
// that are in it, however many levels they have: a filter with one entry costs
// about 150 bytes beside its pattern.
type Trie[K comparable, V any] struct {
	exact exact[K, V]
	tree  tree[bags[K, V]]
	count int
}

// bags are the entries at a node of the tree. '#' is not a level of the tree,
// because "a/#" also matches "a".
type bags[K comparable, V any] struct {
	here  bag[K, V] // of the filter that is the node's path
	below bag[K, V] // of that filter and "/#"
}

func (b bags[K, V]) empty() bool { return b.here.empty() && b.below.empty() }

// Len returns the number of entries.
func (t *Trie[K, V]) Len() int { return t.count }

// Set gives the key the value v under the filter. It returns the value that was
// there before, if there was one.
//
// The cost does not depend on how many filters or keys there are, but for the
// occasional doubling of a table.
func (t *Trie[K, V]) Set(pattern string, key K, v V) (old V, replaced bool) {
	if wild(pattern) {
		old, replaced = t.plant(pattern).set(key, v)
	} else {
		old, replaced = t.exact.set(pattern, key, v)
	}
	if !replaced {
		t.count++
	}
	return old, replaced
}

// plant returns the bag of a pattern with wildcards, made if need be.
func (t *Trie[K, V]) plant(pattern string) *bag[K, V] {
	if pattern == "#" {
		return &t.tree.root.val.below
	}
	if path, ok := strings.CutSuffix(pattern, "/#"); ok {
		return &t.tree.insert(path).val.below
	}
	return &t.tree.insert(pattern).val.here
}

// Delete removes the key's value under the filter and returns it.
func (t *Trie[K, V]) Delete(pattern string, key K) (old V, ok bool) {
	if wild(pattern) {
		old, ok = t.deleteWild(pattern, key)
	} else {
		old, ok = t.exact.delete(pattern, key)
	}
	if ok {
		t.count--
	}
	return old, ok
}

func (t *Trie[K, V]) deleteWild(pattern string, key K) (old V, ok bool) {
	if pattern == "#" {
		return t.tree.root.val.below.delete(key)
	}
	path, below := strings.CutSuffix(pattern, "/#")
	at := t.tree.find(path)
	if at.node == nil {
		return old, false
	}
	b := &at.node.val.here
	if below {
		b = &at.node.val.below
	}
	if old, ok = b.delete(key); ok {
		at.prune()
	}
	return old, ok
}

// front is how many prefixes of filters may match one prefix of a Topic Name
// before Match allocates. Two or three is usual; a name of n levels can have
// 2^n, one for each choice of '+' or the level itself.
const front = 16

// spot is a place in the tree that a Topic Name has led to: the levels of node's
// label before byte next are matched.
type spot[K comparable, V any] struct {
	node *node[bags[K, V]]
	next int // len(node.label)+1 once all its levels are matched
}

func (s spot[K, V]) done() bool { return s.next > len(s.node.label) }

// Match appends to dst the values of all filters that match the Topic Name, and
// returns the extended slice. A key that has several of these filters appears
// once for each. The order is the same for equal histories of Set and Delete.
//
// With many filters nearly all of the time goes into waiting for memory. So the
// search among the filters without wildcards begins first and ends last, and its
// waits overlap with those of the way through the tree.
//
// The name is read one level at a time, and all places in the tree that it has
// led to move on together: no level is searched for its end or hashed twice. The
// cost is bounded by the bytes of name, the nodes of the tree whose path matches
// the beginning of name and the bytes of their labels, and the results. Match
// allocates only what dst lacks, and room for the places if there are more than
// 16 of them at once.
func (t *Trie[K, V]) Match(name string, dst []V) []V {
	from := t.exact.begin(name)
	root := &t.tree.root
	hidden := system(name) // from wildcards in the first level [MQTT-4.7.2-1]
	if !hidden {
		dst = root.val.below.appendTo(dst)
	}
	var arrays [2][front]spot[K, V]
	now, then := append(arrays[0][:0], spot[K, V]{node: root, next: 1}), arrays[1][:0]
	for rest, more := name, true; more && len(now) > 0; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		then = advance(then[:0], now, level, hidden)
		for _, s := range then {
			if s.done() {
				dst = s.node.val.below.appendTo(dst) // "a/#" matches "a" too
			}
		}
		now, then = then, now
		hidden = false
	}
	for _, s := range now {
		if s.done() {
			dst = s.node.val.here.appendTo(dst)
		}
	}
	if l := t.exact.end(from, name); l != nil {
		dst = l.bag.appendTo(dst)
	}
	return dst
}

// advance appends to then the spots that level leads to from those in now. With
// hidden, '+' does not match it.
func advance[K comparable, V any](then, now []spot[K, V], level string, hidden bool) []spot[K, V] {
	var h uint64
	hashed := false
	for _, s := range now {
		if !s.done() {
			if want := firstLevel(s.node.label[s.next:]); want == "+" || want == level {
				then = append(then, spot[K, V]{s.node, s.next + len(want) + 1})
			}
			continue
		}
		if plus := s.node.plus; plus != nil && !hidden {
			then = append(then, spot[K, V]{plus, len("+/")})
		}
		if s.node.kids == nil {
			continue
		}
		if !hashed {
			h, hashed = hash(level), true
		}
		if kid := s.node.kids.get(level, h); kid != nil {
			then = append(then, spot[K, V]{kid, len(level) + 1})
		}
	}
	return then
}

// All calls yield for each entry until yield returns false. Filters without
// wildcards come first, in no particular order; the others in the order in which
// their first levels came, filter by filter. The Trie must not change meanwhile.
func (t *Trie[K, V]) All(yield func(pattern string, key K, v V) bool) {
	each := func(b *bag[K, V], pattern string) bool {
		for key, v := range b.all() {
			if !yield(pattern, key, v) {
				return false
			}
		}
		return true
	}
	for _, s := range t.exact.slots {
		if s.at != nil && !each(&s.at.bag, s.at.pattern) {
			return
		}
	}
	if !each(&t.tree.root.val.below, "#") {
		return
	}
	t.tree.walk(func(path []byte, n *node[bags[K, V]]) bool {
		return (n.val.here.empty() || each(&n.val.here, string(path))) &&
			(n.val.below.empty() || each(&n.val.below, string(path)+"/#"))
	})
}
