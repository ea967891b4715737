package device

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"fairlead/auth"
)

// Filter says which devices Devices returns. Empty fields ask for nothing.
type Filter struct {
	Prefix string            // of the name
	Group  string            // that it is in
	State  auth.State        // that it is in
	Attrs  map[string]string // that it has
}

// Page says which part of a list is wanted.
type Page struct {
	After string // go on behind this name
	Limit int    // 0: LimitDefault; at most LimitMax
}

// How many a list has.
const (
	LimitDefault = 100
	LimitMax     = 1000
)

// scanAtOnce is how many entities a list looks at while nobody can change any.
const scanAtOnce = 1000

// Devices lists devices from memory, in the order of their names. next is Page.After of
// the next part; empty: this is the last.
func (r *Registry) Devices(f Filter, p Page) (list []Device, next string, err error) {
	return scan(r, &r.devices, f.Prefix, p, func(d *Device) (match, more bool) {
		return f.matches(d), strings.HasPrefix(d.Name, f.Prefix)
	})
}

func (f Filter) matches(d *Device) bool {
	if !strings.HasPrefix(d.Name, f.Prefix) || f.State != "" && d.State != f.State || f.Group != "" && !slices.Contains(d.Groups, f.Group) {
		return false
	}
	for k, v := range f.Attrs {
		if got, ok := d.Attrs[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Users lists users, as Devices does.
func (r *Registry) Users(p Page) (list []User, next string, err error) {
	return scan(r, &r.users, "", p, func(*User) (bool, bool) { return true, true })
}

// Groups lists groups, as Devices does.
func (r *Registry) Groups(p Page) (list []Group, next string, err error) {
	return scan(r, &r.groups, "", p, func(*Group) (bool, bool) { return true, true })
}

// Tokens lists tokens, as Devices does, in the order of their ids.
func (r *Registry) Tokens(p Page) (list []Token, next string, err error) {
	return scan(r, &r.tokens, "", p, func(*Token) (bool, bool) { return true, true })
}

// pointer is an entity that a list returns as a value.
type pointer[V any] interface {
	entity
	*V
}

// scan walks through a table from a name on, with a pause for others after each
// scanAtOnce. look says whether an entity is wanted and whether any behind it can be.
func scan[V any, T pointer[V]](r *Registry, t *table[T], from string, p Page, look func(T) (match, more bool)) (list []V, next string, err error) {
	if p.Limit < 0 || p.Limit > LimitMax {
		return nil, "", fmt.Errorf("a list of %d, expected 1 to %d", p.Limit, LimitMax)
	}
	if p.Limit == 0 {
		p.Limit = LimitDefault
	}
	if p.After != "" {
		from = max(from, p.After+"\x00") // the least that is greater
	}
	for part := range r.parts(from, t.from) {
		for _, name := range part {
			e := t.items[name]
			match, more := look(e)
			if !more {
				return list, "", nil
			}
			if !match {
				continue
			}
			if len(list) == p.Limit {
				_, next = T(&list[len(list)-1]).place()
				return list, next, nil
			}
			list = append(list, *e)
		}
	}
	return list, "", nil
}

// parts yields the names from one on, and holds the lock while it does.
func (r *Registry) parts(from string, get func(from string, n int) []string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for ok := true; ok; {
			r.mu.RLock()
			names := get(from, scanAtOnce)
			ok = yield(names) && len(names) == scanAtOnce
			if ok {
				from = names[len(names)-1] + "\x00"
			}
			r.mu.RUnlock()
		}
	}
}
