package broker

import (
	"strings"
	"sync"
	"sync/atomic"

	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
)

// router knows who wants which Topic Name. What it has found out for a name is
// kept as a route until a SUBSCRIBE or UNSUBSCRIBE touches exactly that name, so
// churn elsewhere does not empty the cache.
type router struct {
	levels int // of a Topic Name; 0: any

	mu     sync.RWMutex // guards the fields below
	subs   topic.Trie[subscriptionKey, *entry]
	routes topic.Names[*route]
	old    []*route // the routes in the order of their making, for eviction
	size   int      // routes and their targets, against routerMax
	shares map[string]*group
}

// routerMax bounds the routes that are remembered, counted in routes and
// targets: about 64 bytes each. Beyond it the oldest routes are forgotten.
const routerMax = 1 << 20

// route is what matching a Topic Name has found. It is never changed but for
// stale, and may be used without a lock.
type route struct {
	topic   string
	targets []target
	groups  []*group
	stale   atomic.Bool // a subscription has changed since
	durable bool        // a target outlives its connection and wants QoS 1 or 2
}

// keeps reports whether somebody wants what is published here even after a crash.
func (rt *route) keeps() bool {
	if rt.durable {
		return true
	}
	for _, g := range rt.groups {
		if g.durable.Load() {
			return true
		}
	}
	return false
}

// target is one Session that receives a message, by one subscription or several
// that overlap: it gets one copy, at the highest of their QoS [MQTT-3.3.4-2],
// with all their Subscription Identifiers [MQTT-3.3.4-4].
type target struct {
	to          *subscriber
	via         *session.Via
	self        *target // with noLocal: for what the Session itself publishes; nil: nothing
	qos         mqtt.QoS
	asPublished bool
	noLocal     bool
}

// subscriptionKey tells the entries of one Topic Filter apart: each Session has
// one, and each ShareName.
type subscriptionKey struct {
	to    *subscriber
	group *group
}

type entry struct {
	to    *subscriber
	sub   *session.Subscription
	group *group // of a Shared Subscription; then the other fields are nil
}

// subscribe adds or replaces a subscription.
func (r *router) subscribe(to *subscriber, sub *session.Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pattern := sub.Filter.Pattern
	if sub.Filter.Shared() {
		r.joinLocked(to, sub)
		return
	}
	r.subs.Set(pattern, subscriptionKey{to: to}, &entry{to: to, sub: sub})
	r.staleLocked(pattern)
}

func (r *router) joinLocked(to *subscriber, sub *session.Subscription) {
	key := sub.Filter.String()
	g := r.shares[key]
	if g == nil {
		g = &group{filter: key, broker: to.broker}
		if r.shares == nil {
			r.shares = make(map[string]*group)
		}
		r.shares[key] = g
		r.subs.Set(sub.Filter.Pattern, subscriptionKey{group: g}, &entry{group: g})
		r.staleLocked(sub.Filter.Pattern)
	}
	g.join(to, sub)
}

// unsubscribe removes a subscription.
func (r *router) unsubscribe(from *subscriber, sub *session.Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pattern := sub.Filter.Pattern
	if !sub.Filter.Shared() {
		r.subs.Delete(pattern, subscriptionKey{to: from})
		r.staleLocked(pattern)
		return
	}
	key := sub.Filter.String()
	if g := r.shares[key]; g != nil && g.leave(from) == 0 {
		delete(r.shares, key)
		r.subs.Delete(pattern, subscriptionKey{group: g})
		r.staleLocked(pattern)
	}
}

// share returns the members of a Shared Subscription, or nil.
func (r *router) share(filter string) *group {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.shares[filter]
}

// staleLocked forgets the routes that the pattern touches. Who still holds one
// sees that it is stale.
func (r *router) staleLocked(pattern string) {
	var gone []string
	r.routes.Match(pattern, func(name string, rt *route) bool {
		rt.stale.Store(true)
		gone = append(gone, name)
		return true
	})
	for _, name := range gone {
		r.forgetLocked(name)
	}
}

func (r *router) forgetLocked(name string) {
	if rt, ok := r.routes.Delete(name); ok {
		r.size -= rt.weight()
	}
}

func (rt *route) weight() int { return 1 + len(rt.targets) + len(rt.groups) }

// route returns the route of a Topic Name that has come from a Client. A name
// that is none gives a [*session.Error].
func (r *router) route(name []byte) (*route, error) {
	r.mu.RLock()
	rt, ok := r.routes.GetBytes(name)
	r.mu.RUnlock()
	if ok {
		return rt, nil
	}
	topicName := string(name)
	if err := session.CheckTopic(topicName); err != nil {
		return nil, err
	}
	if r.levels > 0 && strings.Count(topicName, "/") >= r.levels {
		return nil, violation(mqtt.TopicNameInvalid, "Topic Name has %d levels: expected at most %d", strings.Count(topicName, "/")+1, r.levels)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rt, ok := r.routes.Get(topicName); ok {
		return rt, nil
	}
	rt = r.matchLocked(topicName)
	r.rememberLocked(rt)
	return rt, nil
}

func (r *router) rememberLocked(rt *route) {
	r.routes.Set(rt.topic, rt)
	r.old = append(r.old, rt)
	r.size += rt.weight()
	for (r.size > routerMax || len(r.old) > routerMax) && len(r.old) > 1 {
		oldest := r.old[0]
		r.old[0], r.old = nil, r.old[1:]
		if now, ok := r.routes.Get(oldest.topic); ok && now == oldest {
			r.forgetLocked(oldest.topic) // not stale: who holds it may go on using it until it is
			oldest.stale.Store(true)
		}
	}
}

// matchLocked finds the Sessions and Shared Subscriptions that want the name.
func (r *router) matchLocked(name string) *route {
	rt := &route{topic: name}
	var scratch [32]*entry
	entries := r.subs.Match(name, scratch[:0])
	var at map[*subscriber]int
	if len(entries) > linearMax {
		at = make(map[*subscriber]int, len(entries))
	}
	rt.targets = make([]target, 0, len(entries))
	for _, e := range entries {
		if e.group != nil {
			rt.groups = append(rt.groups, e.group)
			continue
		}
		i, ok := rt.find(e.to, at)
		if !ok {
			i = len(rt.targets)
			rt.targets = append(rt.targets, target{to: e.to})
			if at != nil {
				at[e.to] = i
			}
		}
		rt.targets[i].add(e.sub)
		if e.to.durable && e.sub.QoS > mqtt.QoS0 {
			rt.durable = true
		}
	}
	return rt
}

// linearMax is how many targets are searched one by one; beyond it a map helps.
const linearMax = 16

func (rt *route) find(to *subscriber, at map[*subscriber]int) (int, bool) {
	if at != nil {
		i, ok := at[to]
		return i, ok
	}
	for i := range rt.targets {
		if rt.targets[i].to == to {
			return i, true
		}
	}
	return 0, false
}

// add lets the target's Session receive by sub too. Subscriptions with No Local
// play no part in what the Session itself publishes, so there the others are
// gathered apart.
func (t *target) add(sub *session.Subscription) {
	if t.first() {
		t.merge(sub)
		t.noLocal = sub.NoLocal
		return
	}
	if sub.NoLocal && !t.noLocal {
		self := *t
		t.self, t.noLocal = &self, true
	} else if t.noLocal && !sub.NoLocal {
		if t.self == nil {
			t.self = &target{to: t.to}
		}
		t.self.merge(sub)
	}
	t.merge(sub)
}

// first reports whether no subscription has been added yet.
func (t *target) first() bool { return t.via == nil }

func (t *target) merge(sub *session.Subscription) {
	t.qos = max(t.qos, sub.QoS)
	t.asPublished = t.asPublished || sub.RetainAsPublished
	via := plain
	if t.via != nil && len(t.via.IDs) > 0 || sub.ID != 0 {
		via = &session.Via{}
		if t.via != nil {
			via.IDs = append(via.IDs, t.via.IDs...)
		}
		if sub.ID != 0 {
			via.IDs = append(via.IDs, sub.ID)
		}
	}
	t.via = via
}

// plain is the way of a message that carries no Subscription Identifier.
var plain = &session.Via{}
