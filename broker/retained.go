package broker

import (
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
	gone    atomic.Bool
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
	r.names.Set(m.Topic, &retainedMessage{message: m, number: r.count})
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
	r.bytes -= int64(k.message.Size())
	if isSys(k.message.Topic) {
		r.own--
		r.ownBytes -= int64(k.message.Size())
	}
	if !k.message.Expires.IsZero() {
		r.expiring--
	}
}

// sweep removes what has expired by the time now [MQTT-3.3.2-5].
func (r *retained) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expiring == 0 {
		return
	}
	var expired []string
	for name, k := range r.names.All {
		if k.message.Expired(now) {
			expired = append(expired, name)
		}
	}
	for _, name := range expired {
		r.deleteLocked(name)
	}
}

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

// match selects the Retained Messages that a pattern matches, up to the one with
// the given number.
func (r *retained) match(pattern string, upTo uint64) (found []*retainedMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names.Match(pattern, func(_ string, k *retainedMessage) bool {
		if k.number <= upTo {
			found = append(found, k)
		}
		return true
	})
	return found
}

func (r *retained) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names.Len()
}
