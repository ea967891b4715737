package topic

// bag holds the entries of one Topic Filter, one for each key.
//
// Most filters have one entry, and a few have 100,000. So entries stand in a
// slice, packed for Match to read, and an index appears beside it once looking
// through the slice would take longer than looking up the key.
type bag[K comparable, V any] struct {
	entries []entry[K, V]
	index   map[K]int // where the entry of a key stands; nil in a small bag
}

type entry[K comparable, V any] struct {
	key K
	v   V
}

// A bag gets its index when it grows beyond indexAbove entries and drops it
// when it shrinks to indexBelow: apart, so that a client that comes and goes
// does not build and drop an index each time.
const (
	indexAbove = 8
	indexBelow = 4
)

func (b *bag[K, V]) empty() bool { return len(b.entries) == 0 }

// find returns where the entry of key stands, or -1.
func (b *bag[K, V]) find(key K) int {
	if b.index != nil {
		if i, ok := b.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range b.entries {
		if b.entries[i].key == key {
			return i
		}
	}
	return -1
}

// set gives key the value v, and returns the value it had.
func (b *bag[K, V]) set(key K, v V) (old V, replaced bool) {
	if i := b.find(key); i >= 0 {
		old, b.entries[i].v = b.entries[i].v, v
		return old, true
	}
	b.entries = append(b.entries, entry[K, V]{key, v})
	switch n := len(b.entries); {
	case b.index != nil:
		b.index[key] = n - 1
	case n > indexAbove:
		b.index = make(map[K]int, 2*n)
		for i := range b.entries {
			b.index[b.entries[i].key] = i
		}
	}
	return old, false
}

// delete removes the entry of key and returns its value. The last entry moves
// to its place.
func (b *bag[K, V]) delete(key K) (old V, ok bool) {
	i := b.find(key)
	if i < 0 {
		return old, false
	}
	old = b.entries[i].v
	last := len(b.entries) - 1
	if b.index != nil {
		b.index[b.entries[last].key] = i
		delete(b.index, key)
	}
	b.entries[i] = b.entries[last]
	b.entries[last] = entry[K, V]{} // else the array would keep what it refers to alive
	b.entries = b.entries[:last]
	b.shrink()
	return old, true
}

// shrink gives back memory after a removal.
func (b *bag[K, V]) shrink() {
	n := len(b.entries)
	if n <= indexBelow {
		b.index = nil
	}
	switch {
	case n == 0:
		b.entries = nil
	case n < cap(b.entries)/4:
		b.entries = append(make([]entry[K, V], 0, 2*n), b.entries...)
	}
}

// appendTo appends the values of all entries to dst.
func (b *bag[K, V]) appendTo(dst []V) []V {
	for i := range b.entries {
		dst = append(dst, b.entries[i].v)
	}
	return dst
}
