package auth

import "container/list"

// recent is a map of limited size: a new key beyond the limit displaces the one
// that has not been used for longest. It has no lock of its own.
type recent[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element
	order list.List // of *pair[K, V], the latest in front
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{max: most, byKey: make(map[K]*list.Element)}
}

// get returns the value of the key and counts as its use.
func (r *recent[K, V]) get(k K) (v V, ok bool) {
	e := r.byKey[k]
	if e == nil {
		return v, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*pair[K, V]).value, true
}

func (r *recent[K, V]) put(k K, v V) {
	if e := r.byKey[k]; e != nil {
		e.Value.(*pair[K, V]).value = v
		r.order.MoveToFront(e)
		return
	}
	if len(r.byKey) >= r.max {
		oldest := r.order.Back()
		delete(r.byKey, oldest.Value.(*pair[K, V]).key)
		r.order.Remove(oldest)
	}
	r.byKey[k] = r.order.PushFront(&pair[K, V]{k, v})
}

func (r *recent[K, V]) remove(k K) {
	if e := r.byKey[k]; e != nil {
		delete(r.byKey, k)
		r.order.Remove(e)
	}
}
