package device

import (
	"context"
	"iter"
	"sync"
)

// Kind is what a Change is about.
type Kind uint8

// The kinds of what the registry keeps.
const (
	KindAll    Kind = iota + 1 // everything may have changed
	KindDevice                 // the device of that name
	KindUser                   // the user of that name
	KindGroup                  // the group itself; a change of its members is one of theirs
	KindToken                  // the token of that id
)

// String names the kind: "device", "user", ...
func (k Kind) String() string {
	switch k {
	case KindAll:
		return "all"
	case KindDevice:
		return "device"
	case KindUser:
		return "user"
	case KindGroup:
		return "group"
	case KindToken:
		return "token"
	}
	return "none"
}

// Change says who was added, changed or removed.
type Change struct {
	Kind Kind
	Name string // empty with KindAll
}

// changesMax is how many names a listener may be behind; it is then told KindAll once
// instead.
const changesMax = 1 << 16

// Changes yields what changes after the call, by whichever node, until ctx ends or the
// registry is closed. When it yields a Change, the lookups know it already. Of several
// changes of one name in short order only one need be yielded. A listener that falls
// behind by 65,536 names is told once that everything may have changed. The iterator can
// be used once.
func (r *Registry) Changes(ctx context.Context) iter.Seq[Change] {
	f := &feed{wake: make(chan struct{}, 1), waiting: make(map[Change]struct{})}
	r.feeds.add(f)
	leave := context.AfterFunc(ctx, func() { r.feeds.remove(f) })
	return func(yield func(Change) bool) {
		defer leave()
		defer r.feeds.remove(f)
		for {
			changes, open := r.feeds.take(f)
			for _, c := range changes {
				if ctx.Err() != nil || !yield(c) {
					return
				}
			}
			if !open {
				return
			}
			if len(changes) > 0 {
				continue
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

// feed is what one listener has not heard yet.
type feed struct {
	wake    chan struct{}
	list    []Change
	waiting map[Change]struct{} // those in list
}

type feeds struct {
	mu     sync.Mutex // guards all below, and the content of each feed
	all    map[*feed]struct{}
	closed bool
}

func (x *feeds) add(f *feed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.closed {
		x.all[f] = struct{}{}
	}
}

func (x *feeds) remove(f *feed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.all, f)
	f.list, f.waiting = nil, nil
}

func (x *feeds) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	for f := range x.all {
		f.wakeUp()
	}
}

func (x *feeds) publish(c Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for f := range x.all {
		f.put(c)
		f.wakeUp()
	}
}

func (f *feed) put(c Change) {
	all := Change{Kind: KindAll}
	_, behind := f.waiting[all]
	_, known := f.waiting[c]
	if behind || known {
		return
	}
	if len(f.list) >= changesMax {
		f.list, f.waiting, c = nil, make(map[Change]struct{}), all
	}
	f.list = append(f.list, c)
	f.waiting[c] = struct{}{}
}

func (f *feed) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns what there is, and whether more may come.
func (x *feeds) take(f *feed) ([]Change, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := f.list
	f.list = nil
	clear(f.waiting)
	return list, !x.closed
}
