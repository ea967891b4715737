package topic

import "iter"

// bag holds the entries of one Topic Filter, one for each key.
//
// Most filters have one entry, and a few have 100,000. So the only entry stands
// in the bag itself, where Match finds it without another access to memory;
// several stand in a slice, packed for Match to read; and an index appears beside
// it once looking through the slice would take longer than looking up the key.
type bag[K comparable, V any] struct {
	only entry[K, V]
	many *crowd[K, V] // nil unless there are two entries or more; then only means nothing
	some bool         // there is an entry
}

type entry[K comparable, V any] struct {
	key K
	v   V
}

// crowd is two entries or more.
type crowd[K comparable, V any] struct {
	entries []entry[K, V]
	index   map[K]int // where the entry of a key stands; nil in a small crowd
}

// A crowd gets its index when it grows beyond indexAbove entries and drops it
// when it shrinks to indexBelow: apart, so that a client that comes and goes
// does not build and drop an index each time.
const (
	indexAbove = 8
	indexBelow = 4
)

func (b *bag[K, V]) empty() bool { return !b.some }

// set gives key the value v, and returns the value it had.
func (b *bag[K, V]) set(key K, v V) (old V, replaced bool) {
	switch {
	case b.many != nil:
		return b.many.set(key, v)
	case !b.some:
		b.only, b.some = entry[K, V]{key, v}, true
		return old, false
	case b.only.key == key:
		old, b.only.v = b.only.v, v
		return old, true
	}
	b.many = &crowd[K, V]{entries: []entry[K, V]{b.only, {key, v}}}
	b.only = entry[K, V]{}
	return old, false
}

// delete removes the entry of key and returns its value. The last entry moves
// to its place.
func (b *bag[K, V]) delete(key K) (old V, ok bool) {
	if b.many != nil {
		if old, ok = b.many.delete(key); ok && len(b.many.entries) == 1 {
			b.only, b.many = b.many.entries[0], nil
		}
		return old, ok
	}
	if !b.some || b.only.key != key {
		return old, false
	}
	old = b.only.v
	*b = bag[K, V]{}
	return old, true
}

// appendTo appends the values of all entries to dst.
func (b *bag[K, V]) appendTo(dst []V) []V {
	if !b.some {
		return dst
	}
	if b.many == nil {
		return append(dst, b.only.v)
	}
	for i := range b.many.entries {
		dst = append(dst, b.many.entries[i].v)
	}
	return dst
}

// all are the entries; the bag must not change meanwhile.
func (b *bag[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if b.many != nil {
			for _, e := range b.many.entries {
				if !yield(e.key, e.v) {
					return
				}
			}
		} else if b.some {
			yield(b.only.key, b.only.v)
		}
	}
}

// find returns where the entry of key stands, or -1.
func (c *crowd[K, V]) find(key K) int {
	if c.index != nil {
		if i, ok := c.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range c.entries {
		if c.entries[i].key == key {
			return i
		}
	}
	return -1
}

func (c *crowd[K, V]) set(key K, v V) (old V, replaced bool) {
	if i := c.find(key); i >= 0 {
		old, c.entries[i].v = c.entries[i].v, v
		return old, true
	}
	c.entries = append(c.entries, entry[K, V]{key, v})
	switch n := len(c.entries); {
	case c.index != nil:
		c.index[key] = n - 1
	case n > indexAbove:
		c.index = make(map[K]int, 2*n)
		for i := range c.entries {
			c.index[c.entries[i].key] = i
		}
	}
	return old, false
}

func (c *crowd[K, V]) delete(key K) (old V, ok bool) {
	i := c.find(key)
	if i < 0 {
		return old, false
	}
	old = c.entries[i].v
	last := len(c.entries) - 1
	if c.index != nil {
		c.index[c.entries[last].key] = i
		delete(c.index, key)
	}
	c.entries[i] = c.entries[last]
	c.entries[last] = entry[K, V]{} // else the array would keep what it refers to alive
	c.entries = c.entries[:last]
	c.shrink()
	return old, true
}

// shrink gives back memory after a removal.
func (c *crowd[K, V]) shrink() {
	n := len(c.entries)
	if n <= indexBelow {
		c.index = nil
	}
	if n < cap(c.entries)/4 {
		c.entries = append(make([]entry[K, V], 0, 2*n), c.entries...)
	}
}
