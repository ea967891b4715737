package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
	"fairlead/policy"
	"fairlead/trace"
)

// retained is the store of Retained Messages: one a Topic Name [MQTT-3.3.1-5].
type retained struct {
	mu       sync.Mutex // guards the fields below
	names    topic.Names[*kept]
	bytes    int64
	expiring int    // how many have a Message Expiry Interval
	count    uint64 // of messages ever retained
}

// kept is a Retained Message. Gone says that it has been replaced or removed.
type kept struct {
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
		b.retained.remove(m.Topic)
		return allowed
	}
	if b.retained.set(f.keep(), &b.limits) {
		return allowed
	}
	if m.QoS == mqtt.QoS0 {
		b.Outcomes[trace.DroppedNotRetained].Add(1)
		return allowed
	}
	return policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the store of retained messages is full"}
}

func (r *retained) set(m *mqtt.Message, lim *Limits) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, replaced := r.names.Get(m.Topic)
	size, count := r.bytes+int64(m.Size()), r.names.Len()+1
	if replaced {
		size -= int64(old.message.Size())
		count--
	}
	if (size > lim.RetainedBytes || count > lim.RetainedMessages) && !isSys(m.Topic) {
		return false
	}
	if replaced {
		r.forgetLocked(old)
	}
	r.count++
	r.names.Set(m.Topic, &kept{message: m, number: r.count})
	r.bytes += int64(m.Size())
	if !m.Expires.IsZero() {
		r.expiring++
	}
	return true
}

func (r *retained) remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.names.Delete(name); ok {
		r.forgetLocked(old)
	}
}

func (r *retained) forgetLocked(k *kept) {
	k.gone.Store(true)
	r.bytes -= int64(k.message.Size())
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
		if old, ok := r.names.Delete(name); ok {
			r.forgetLocked(old)
		}
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
func (r *retained) match(pattern string, upTo uint64) (found []*kept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names.Match(pattern, func(_ string, k *kept) bool {
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
