package broker

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/store"
)

// owed are the messages that a Shared Subscription owes some member, by number. They
// stand in pages, of which a checkpoint writes those that have changed: a million of
// them that wait cost nothing. The zero value holds none.
type owed struct {
	pages map[uint64]*page
	n     int
}

// page holds those of pageNumbers numbers in a row.
type page struct {
	messages map[uint64]*mqtt.Message
	dirty    bool
	stored   bool // the KV has, or may have, something of it
}

// pageNumbers is how many numbers a page spans.
const pageNumbers = 512

func (o *owed) len() int { return o.n }

// get returns the message with the number, or nil.
func (o *owed) get(number uint64) *mqtt.Message {
	if p := o.pages[number/pageNumbers]; p != nil {
		return p.messages[number]
	}
	return nil
}

func (o *owed) add(m *mqtt.Message) {
	p := o.pages[m.Number/pageNumbers]
	if p == nil {
		if o.pages == nil {
			o.pages = make(map[uint64]*page)
		}
		p = &page{messages: make(map[uint64]*mqtt.Message)}
		o.pages[m.Number/pageNumbers] = p
	}
	if p.messages[m.Number] == nil {
		o.n++
	}
	p.messages[m.Number] = m
	p.dirty = true
}

// remove reports whether the message was there.
func (o *owed) remove(number uint64) bool {
	p := o.pages[number/pageNumbers]
	if p == nil || p.messages[number] == nil {
		return false
	}
	delete(p.messages, number)
	p.dirty = true
	o.n--
	return true
}

// list returns the messages in the order of their numbers.
func (o *owed) list() []*mqtt.Message {
	all := make([]*mqtt.Message, 0, o.n)
	for _, n := range slices.Sorted(maps.Keys(o.pages)) {
		all = append(all, o.pages[n].list()...)
	}
	return all
}

func (p *page) list() []*mqtt.Message {
	return slices.SortedFunc(maps.Values(p.messages), func(a, b *mqtt.Message) int { return cmp.Compare(a.Number, b.Number) })
}

// clean notes that the page of the deliveries stands in the KV as it is.
func (o *owed) clean(ds []journal.Delivery) {
	if len(ds) > 0 {
		p := o.pages[ds[0].Number/pageNumbers]
		p.dirty, p.stored = false, true
	}
}

// touch makes all pages dirty: what has been written of them may be gone.
func (o *owed) touch() {
	for _, p := range o.pages {
		p.dirty = true
	}
}

// write returns what the KV must be told: pages that have changed, without what has
// expired by the time now, for the group with the filter.
func (o *owed) write(filter string, now time.Time) (ops []store.Op) {
	for n, p := range o.pages {
		if !p.dirty {
			continue
		}
		p.dirty = false
		maps.DeleteFunc(p.messages, func(_ uint64, m *mqtt.Message) bool {
			if m.Expired(now) {
				o.n--
				return true
			}
			return false
		})
		if len(p.messages) == 0 {
			delete(o.pages, n)
			if p.stored {
				ops = append(ops, store.Op{Key: pageKey(filter, n), Delete: true})
			}
			continue
		}
		p.stored = true
		ds := make([]journal.Delivery, 0, len(p.messages))
		for _, m := range p.list() {
			ds = append(ds, journal.Delivery{Number: m.Number, Message: m, QoS: m.QoS})
		}
		ops = append(ops, store.Op{Key: pageKey(filter, n), Value: journal.AppendChunk(nil, ds)})
	}
	return ops
}

// pageKey is the key of a page. A Topic Filter holds no U+0000.
func pageKey(filter string, n uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(sharePrefix+filter+"\x00"), n))
}

// dropPages is the op that deletes all pages of a group.
func dropPages(filter string) store.Op {
	return store.Op{Key: pageKey(filter, 0), Delete: true, DeleteTo: pageKey(filter, math.MaxUint64)}
}

// splitPageKey is the opposite of pageKey, without the prefix: page is false for the
// key of the group itself.
func splitPageKey(name string) (filter string, page bool) {
	filter, _, page = strings.Cut(name, "\x00")
	return filter, page
}
