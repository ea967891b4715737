package device

import (
	"slices"
	"time"

	"fairlead/store"
)

// table is all entities of a kind, by name. What is in it is never changed, only
// replaced.
type table[T entity] struct {
	items map[string]T
	names []string // in order
	gone  map[string]departure
}

// departure is what remains of an entity until its key is deleted.
type departure struct {
	rev store.Rev
	at  time.Time
}

func newTable[T entity]() table[T] {
	return table[T]{items: make(map[string]T), gone: make(map[string]departure)}
}

// rev is the latest revision known of a name; 0: none.
func (t *table[T]) rev(name string) store.Rev {
	if e, ok := t.items[name]; ok {
		return e.revision()
	}
	return t.gone[name].rev
}

func (t *table[T]) put(name string, e T) {
	if _, ok := t.items[name]; !ok {
		at, _ := slices.BinarySearch(t.names, name)
		t.names = slices.Insert(t.names, at, name)
	}
	t.items[name] = e
	delete(t.gone, name)
}

// forget removes a name and reports whether it was there. deleted: its key is too.
func (t *table[T]) forget(name string, rev store.Rev, deleted bool) bool {
	_, ok := t.items[name]
	if ok {
		at, _ := slices.BinarySearch(t.names, name)
		t.names = slices.Delete(t.names, at, at+1)
		delete(t.items, name)
	}
	if deleted {
		delete(t.gone, name)
		return ok
	}
	now := time.Now()
	t.gone[name] = departure{rev, now}
	if len(t.gone)%goneMax == 0 { // some deletion may have been missed during an interruption
		for name, d := range t.gone {
			if now.Sub(d.at) > 2*goneTTL {
				delete(t.gone, name)
			}
		}
	}
	return ok
}

// from returns the names from one on, at most n of them.
func (t *table[T]) from(name string, n int) []string {
	at, _ := slices.BinarySearch(t.names, name)
	return t.names[at:min(at+n, len(t.names))]
}
