package broker

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
	"fairlead/policy"
	"fairlead/store"
	"fairlead/trace"
)

// retained is the store of Retained Messages: one a Topic Name [MQTT-3.3.1-5].
type retained struct {
	mu       sync.Mutex // guards the fields below
	names    topic.Names[*retainedMessage]
	log      []logged // all of them in the order of their numbers, and gaps
	bytes    int64
	own      int // $SYS topics, which no limit counts
	ownBytes int64
	expiring int                 // how many have a Message Expiry Interval
	count    uint64              // of messages ever retained
	dirty    map[string]struct{} // topics that the next checkpoint writes; nil: without a store
}

// retainedMessage is one of them. Gone says that it has been replaced or removed.
type retainedMessage struct {
	message *mqtt.Message
	number  uint64 // in the order of retaining
	at      int    // where it stands in the log
	gone    atomic.Bool
}

// logged is a place in the log: a message, or nil where one has been.
type logged struct {
	number uint64
	*retainedMessage
}

// retain stores the message, or removes the one of its topic if its payload is
// empty [MQTT-3.3.1-6] [MQTT-3.3.1-7]. It says no if there is no room; a QoS 0
// message then goes on unretained, because its publisher can't be told.
func (b *Broker) retain(f *fanout) policy.Verdict {
	m := f.message()
	if len(m.Payload) == 0 {
		b.retained.remove(m)
		return allowed
	}
	if m.Number != 0 || b.retained.fits(m, &b.limits) { // with a number it is ours already
		b.retained.set(f.keep())
		return allowed
	}
	if m.QoS == mqtt.QoS0 {
		b.Outcomes[trace.DroppedNotRetained].Add(1)
		return allowed
	}
	return noRetainedRoom
}

var noRetainedRoom = policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the store of retained messages is full"}

// fits reports whether there is room for the message.
func (r *retained) fits(m *mqtt.Message, lim *Limits) bool {
	if len(m.Payload) == 0 || isSys(m.Topic) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	size, count := r.bytes-r.ownBytes+int64(m.Size()), r.names.Len()-r.own+1
	if old, ok := r.names.Get(m.Topic); ok {
		size -= int64(old.message.Size())
		count--
	}
	return size <= lim.RetainedBytes && count <= lim.RetainedMessages
}

// set puts the message in the place of the one of its topic.
func (r *retained) set(m *mqtt.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, replaced := r.names.Get(m.Topic)
	if replaced {
		if m.Number > 0 && old.message.Number >= m.Number {
			return // known from a checkpoint
		}
		r.forgetLocked(old)
	}
	r.count++
	k := &retainedMessage{message: m, number: r.count}
	r.names.Set(m.Topic, k)
	r.logLocked(k)
	r.bytes += int64(m.Size())
	if isSys(m.Topic) {
		r.own++
		r.ownBytes += int64(m.Size())
	}
	if !m.Expires.IsZero() {
		r.expiring++
	}
	r.dirtyLocked(m.Topic)
}

// remove removes what the message m, which is empty, wants removed.
func (r *retained) remove(m *mqtt.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.names.Get(m.Topic); !ok || m.Number > 0 && old.message.Number >= m.Number {
		return
	}
	r.deleteLocked(m.Topic)
}

func (r *retained) deleteLocked(name string) {
	if old, ok := r.names.Delete(name); ok {
		r.forgetLocked(old)
		r.dirtyLocked(name)
	}
}

func (r *retained) dirtyLocked(name string) {
	if r.dirty != nil && !isSys(name) {
		r.dirty[name] = struct{}{}
	}
}

// takeDirty returns the topics that have changed since it was last called.
func (r *retained) takeDirty() map[string]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.dirty
	if len(out) > 0 {
		r.dirty = make(map[string]struct{})
		return out
	}
	return nil
}

func (r *retained) putBack(names map[string]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range names {
		r.dirty[name] = struct{}{}
	}
}

// write puts what is retained for the topics now into the writer.
func (r *retained) write(w *kvWriter, names map[string]struct{}) {
	for name := range names {
		r.mu.Lock()
		k, ok := r.names.Get(name)
		r.mu.Unlock()
		if !ok {
			w.add(store.Op{Key: retainedPrefix + name, Delete: true})
			continue
		}
		w.add(store.Op{Key: retainedPrefix + name, Value: journal.AppendRetained(nil, &journal.Retained{Number: k.message.Number, Message: k.message})})
	}
}

func (r *retained) forgetLocked(k *retainedMessage) {
	k.gone.Store(true)
	r.log[k.at].retainedMessage = nil
	r.bytes -= int64(k.message.Size())
	if isSys(k.message.Topic) {
		r.own--
		r.ownBytes -= int64(k.message.Size())
	}
	if !k.message.Expires.IsZero() {
		r.expiring--
	}
}

// logLocked appends the message to the log, from which it first takes the gaps if
// they are more than the messages.
func (r *retained) logLocked(k *retainedMessage) {
	if len(r.log) >= 2*r.names.Len()+logSlack {
		full := r.log[:0]
		for _, l := range r.log {
			if l.retainedMessage != nil {
				l.at = len(full)
				full = append(full, l)
			}
		}
		clear(r.log[len(full):])
		r.log = full
	}
	k.at = len(r.log)
	r.log = append(r.log, logged{k.number, k})
}

// logSlack is how many gaps the log of an empty store has before they are taken out.
const logSlack = 1024

// order brings the log into the order of the journal, in which a checkpoint does not
// keep it.
func (r *retained) order() {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.log, func(a, b logged) int { return cmp.Compare(a.message.Number, b.message.Number) })
	for i := range r.log {
		r.log[i].number, r.log[i].retainedMessage.number, r.log[i].at = uint64(i)+1, uint64(i)+1, i
	}
	r.count = uint64(len(r.log))
}

// sweep removes what has expired by the time now [MQTT-3.3.2-5], a page at a time:
// publishers need not wait for all of it.
func (r *retained) sweep(now time.Time) {
	for from, more := 0, true; more; {
		from, more = r.sweepPage(from, now)
	}
}

func (r *retained) sweepPage(from int, now time.Time) (next int, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expiring == 0 || from >= len(r.log) {
		return 0, false
	}
	next = min(from+pageVisits, len(r.log))
	for _, l := range r.log[from:next] {
		if l.retainedMessage != nil && l.message.Expired(now) {
			r.deleteLocked(l.message.Topic)
		}
	}
	return next, true
}

const (
	// pageVisits is how many Retained Messages are looked at under one lock.
	pageVisits = 1000
	// treeVisits is how far a scan looks for what its filter selects in the tree of
	// names, before it goes through all Retained Messages, a page at a time, instead.
	treeVisits = 16 << 10
)

// scan prepares the sending of what a new subscription matches.
func (r *retained) scan(sub *session.Subscription) scan {
	sc := scan{sub: sub, via: plain}
	if sub.ID != 0 {
		sc.via = &session.Via{IDs: []uint32{sub.ID}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	sc.upTo = r.count
	return sc
}

// page returns the next Retained Messages of a scan, in the order of retaining. There
// may be none, and more all the same.
func (r *retained) page(sc *scan) (found []*retainedMessage, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !sc.begun {
		sc.begun = true
		whole := r.names.MatchWithin(sc.sub.Filter.Pattern, treeVisits, func(_ string, k *retainedMessage) bool {
			if sc.wants(k) {
				found = append(found, k)
			}
			return true
		})
		if whole {
			slices.SortFunc(found, func(a, b *retainedMessage) int { return cmp.Compare(a.number, b.number) })
			return found, false
		}
		found = nil
	}
	at, _ := slices.BinarySearchFunc(r.log, sc.after+1, func(l logged, n uint64) int { return cmp.Compare(l.number, n) })
	end := min(at+pageVisits, len(r.log))
	for _, l := range r.log[at:end] {
		sc.after = l.number
		if l.retainedMessage != nil && sc.wants(l.retainedMessage) && topic.Match(sc.sub.Filter.Pattern, l.message.Topic) {
			found = append(found, l.retainedMessage)
		}
	}
	return found, end < len(r.log) && sc.after < sc.upTo
}

func (r *retained) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names.Len()
}
