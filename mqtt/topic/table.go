package topic

import "hash/maphash"

// seed keeps peers from choosing names that collide.
var seed = maphash.MakeSeed()

// hash is the key of a level, or of a whole name, in a table.
func hash(s string) uint64 { return maphash.String(seed, s) }

// table is a hash table of things that know their own names, with linear
// probing. The zero table is empty; only a table that something was added to may
// be searched.
//
// It is not a map[string]*N because one hash then serves several tables, because
// a slot refers to the name that its thing has now instead of holding on to the
// string that once was the key, and because a search can begin before its result
// is needed: what [Trie.Match] costs is waiting for memory, and waits can overlap.
type table[N any] struct {
	slots []slot[N] // a power of two; at most three quarters are taken
	count int
}

// slot is a place in a table; it is free if at is nil.
type slot[N any] struct {
	hash uint64
	at   *N
}

// slotsMin is the smallest table.
const slotsMin = 4

// home returns the slot where a search for the hash h begins.
func (t *table[N]) home(h uint64) uint64 { return h & uint64(len(t.slots)-1) }

// after returns the slot where a search goes on after slot i.
func (t *table[N]) after(i uint64) uint64 { return (i + 1) & uint64(len(t.slots)-1) }

// add puts in n, whose name has the hash h and is new here.
func (t *table[N]) add(n *N, h uint64) {
	if t.count+1 > len(t.slots)/4*3 {
		t.resize(max(slotsMin, len(t.slots)*2))
	}
	t.count++
	t.put(slot[N]{h, n})
}

// put writes s to the first free slot from its home on.
func (t *table[N]) put(s slot[N]) {
	i := t.home(s.hash)
	for t.slots[i].at != nil {
		i = t.after(i)
	}
	t.slots[i] = s
}

// resize gives the table n slots.
func (t *table[N]) resize(n int) {
	old := t.slots
	t.slots = make([]slot[N], n)
	for _, s := range old {
		if s.at != nil {
			t.put(s)
		}
	}
}

// remove takes out n, whose name has the hash h.
func (t *table[N]) remove(n *N, h uint64) {
	t.free(t.find(n, h))
	t.count--
	switch {
	case t.count == 0:
		t.slots = nil
	case len(t.slots) > slotsMin && t.count < len(t.slots)/8:
		t.resize(max(slotsMin, len(t.slots)/4))
	}
}

// find returns the slot that holds n, whose name has the hash h.
func (t *table[N]) find(n *N, h uint64) uint64 {
	i := t.home(h)
	for t.slots[i].at != n {
		i = t.after(i)
	}
	return i
}

// free frees slot i and moves up those that were displaced by it, so that no
// search ends before them.
func (t *table[N]) free(i uint64) {
	mask := uint64(len(t.slots) - 1)
	for j := t.after(i); t.slots[j].at != nil; j = t.after(j) {
		if home := t.home(t.slots[j].hash); (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot[N]{}
}
