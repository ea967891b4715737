package topic

import "unsafe"

// exact holds the entries of Topic Filters without wildcards.
type exact[K comparable, V any] struct {
	table[leaf[K, V]]
}

// leaf is one filter and its entries, at least one.
type leaf[K comparable, V any] struct {
	pattern string
	short   [32]byte // where a short pattern stands, see newNode; written once
	bag     bag[K, V]
}

func newLeaf[K comparable, V any](pattern string) *leaf[K, V] {
	l := &leaf[K, V]{pattern: pattern}
	if len(pattern) > 0 && len(pattern) <= len(l.short) {
		copy(l.short[:], pattern)
		l.pattern = unsafe.String(&l.short[0], len(pattern))
	}
	return l
}

// lookup is the beginning of a search: the hash of what is searched for and the
// slot to look at first, which the CPU fetches while the caller does other work.
type lookup[K comparable, V any] struct {
	hash uint64
	slot slot[leaf[K, V]]
}

// begin begins the search for a pattern.
func (x *exact[K, V]) begin(pattern string) lookup[K, V] {
	h := hash(pattern)
	if x.count == 0 {
		return lookup[K, V]{hash: h}
	}
	return lookup[K, V]{h, x.slots[x.home(h)]}
}

// end ends the search for the pattern, and returns its leaf, or nil.
func (x *exact[K, V]) end(from lookup[K, V], pattern string) *leaf[K, V] {
	s := from.slot
	for i := from.hash; s.at != nil; s = x.slots[x.home(i)] {
		if s.hash == from.hash && s.at.pattern == pattern {
			return s.at
		}
		i++
	}
	return nil
}

func (x *exact[K, V]) set(pattern string, key K, v V) (old V, replaced bool) {
	from := x.begin(pattern)
	l := x.end(from, pattern)
	if l == nil {
		l = newLeaf[K, V](pattern)
		x.add(l, from.hash)
	}
	return l.bag.set(key, v)
}

func (x *exact[K, V]) delete(pattern string, key K) (old V, ok bool) {
	from := x.begin(pattern)
	l := x.end(from, pattern)
	if l == nil {
		return old, false
	}
	if old, ok = l.bag.delete(key); ok && l.bag.empty() {
		x.remove(l, from.hash)
	}
	return old, ok
}
