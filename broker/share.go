package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/trace"
)

// group is a Shared Subscription: each message goes to one of its members.
type group struct {
	broker  *Broker
	filter  string                    // with $share/<ShareName>/
	members atomic.Pointer[[]*target] // never nil after join; replaced, not changed, under the router's lock
	next    atomic.Uint32
	durable atomic.Bool // a member outlives its connection

	mu sync.Mutex // guards the fields below
	// pending are the messages that no member has acknowledged at QoS 1 or begun to
	// receive at QoS 2, by number: after a crash they go to any member. Empty unless
	// durable.
	pending owed
	number  uint64 // of the latest message
	dirty   bool   // the next checkpoint writes it
}

// owe notes that the group owes the message to some member. False: it is known
// from a checkpoint.
func (g *group) owe(m *mqtt.Message) bool {
	if m.Number == 0 || m.QoS == mqtt.QoS0 || !g.durable.Load() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.Number <= g.number {
		return false
	}
	g.number = m.Number
	g.pending.add(m)
	g.dirtyLocked(g.broker.keeper)
	return true
}

// settle notes that the group of the delivery, if it has one, owes it no more.
func (b *Broker) settle(d session.Delivery) {
	if d.Message == nil || d.Message.Number == 0 || !shared(d) {
		return
	}
	if g := b.router.share(d.Via.Share); g != nil {
		g.settleOne(d.Message.Number)
	}
}

// owed reports whether the group of the delivery, if it has one, owes it to some member.
func (b *Broker) owed(d session.Delivery) bool {
	if !shared(d) {
		return false
	}
	g := b.router.share(d.Via.Share)
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pending.get(d.Message.Number) != nil
}

// owes lists the messages that the group owes, in the order of the journal.
func (g *group) owes() []*mqtt.Message {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pending.list()
}

func (g *group) settleOne(number uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending.remove(number) {
		g.dirtyLocked(g.broker.keeper)
	}
}

// returned notes that the op with the number has given a message back that the group
// owes.
func (g *group) returned(number uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.number = max(g.number, number)
	if g.durable.Load() {
		g.dirtyLocked(g.broker.keeper)
	}
}

func (g *group) dirtyLocked(k *keeper) {
	if !g.dirty {
		g.dirty = true
		k.dirtyGroup(g)
	}
}

// setMembers replaces the members. The caller holds the router's lock.
func (g *group) setMembers(list []*target) {
	g.members.Store(&list)
	durable := slices.ContainsFunc(list, func(t *target) bool { return t.to.durable && t.qos > mqtt.QoS0 })
	if durable == g.durable.Load() || g.broker.keeper == nil {
		return
	}
	g.durable.Store(durable)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !durable {
		g.pending = owed{}
	}
	g.dirtyLocked(g.broker.keeper)
}

func (g *group) list() []*target {
	if p := g.members.Load(); p != nil {
		return *p
	}
	return nil
}

// join adds the member or replaces its options.
func (g *group) join(to *subscriber, sub *session.Subscription) {
	t := &target{to: to, qos: sub.QoS, asPublished: sub.RetainAsPublished, via: &session.Via{Share: g.filter}}
	if sub.ID != 0 {
		t.via.IDs = []uint32{sub.ID}
	}
	list := slices.Clone(g.list())
	if i := slices.IndexFunc(list, func(m *target) bool { return m.to == to }); i >= 0 {
		list[i] = t
	} else {
		list = append(list, t)
	}
	g.setMembers(list)
}

// leave removes the member and returns how many are left.
func (g *group) leave(from *subscriber) int {
	list := slices.DeleteFunc(slices.Clone(g.list()), func(m *target) bool { return m.to == from })
	g.setMembers(list)
	return len(list)
}

// has reports whether the member still is one.
func (g *group) has(t *target) bool { return slices.Contains(g.list(), t) }

// pick chooses the member for the next message: in turn, those first that are
// connected and keep up, then connected ones, then any that has room. The Session
// not is left out. Nil: nobody has room.
func (g *group) pick(not *subscriber) *target {
	list := g.list()
	if len(list) == 0 {
		return nil
	}
	start := int(g.next.Add(1) % uint32(len(list)))
	var best *target
	bestRank := 0
	for i := range list {
		t := list[(start+i)%len(list)]
		rank := t.to.rank()
		if rank == 1 && t.qos == mqtt.QoS0 {
			rank = 0 // it would get nothing
		}
		if rank > bestRank && t.to != not {
			best, bestRank = t, rank
			if rank == rankMax {
				break
			}
		}
	}
	return best
}

// other returns a member that is not the Session, full or not; nil: there is none.
func (g *group) other(not *subscriber) *target {
	for _, t := range g.list() {
		if t.to != not {
			return t
		}
	}
	return nil
}

// present reports whether a member that is not the Session is connected.
func (g *group) present(not *subscriber) bool {
	return g != nil && slices.ContainsFunc(g.list(), func(t *target) bool { return t.to != not && t.to.online.Load() })
}

// hasRoom reports whether some member takes one more QoS 1 or 2 message. Unlike
// pick it takes nobody's turn.
func (g *group) hasRoom() bool {
	return slices.ContainsFunc(g.list(), func(t *target) bool { return t.to.rank() > 0 })
}

// lasting reports whether some member outlives its connection.
func (g *group) lasting() bool {
	return slices.ContainsFunc(g.list(), func(t *target) bool { return !t.to.transient.Load() })
}

const rankMax = 3

// rank says how well a Session could take a message of a Shared Subscription.
func (s *subscriber) rank() int {
	switch {
	case s.full.Load() || s.doomed.Load():
		return 0
	case !s.online.Load():
		return 1
	case s.busy.Load():
		return 2
	}
	return rankMax
}

// deliverShared gives the message to one member. A member that leaves meanwhile
// is passed over. What is ours already goes to a full member if need be.
func (b *Broker) deliverShared(f *fanout, g *group) bool {
	if !g.owe(f.message()) || b.recovering {
		return true
	}
	return b.giveShared(f, g)
}

func (b *Broker) giveShared(f *fanout, g *group) bool {
	for {
		t := g.pick(nil)
		if list := g.list(); t == nil && f.scratch.Number != 0 && len(list) > 0 {
			t = list[0]
		}
		if t == nil {
			return false
		}
		t.to.mu.Lock()
		if t.to.gone || !g.has(t) {
			t.to.mu.Unlock()
			if len(g.list()) == 0 {
				return false
			}
			continue
		}
		outcome := t.to.acceptLocked(f, t)
		t.to.mu.Unlock()
		g.answered(f, t)
		return b.delivered(f, t.to, t, outcome)
	}
}

// answered settles the message if the member has got it, or not, at QoS 0: nobody
// will acknowledge it.
func (g *group) answered(f *fanout, t *target) {
	if min(f.qos(), t.qos) == mqtt.QoS0 && f.scratch.Number != 0 {
		g.settleOne(f.scratch.Number)
	}
}

// condemn ends the members that are full: no one could take a message that
// nobody may refuse.
func (g *group) condemn() {
	for _, t := range g.list() {
		t.to.condemn()
	}
}

// reshare gives messages of Shared Subscriptions, taken from the Session from,
// to other members. Those for which there is no other, or none connected while
// from itself stays, go back to it.
func (b *Broker) reshare(from *subscriber, messages []session.Delivery, stays bool) {
	if len(messages) == 0 {
		return
	}
	w := newWork(b.now())
	for _, d := range messages {
		if !b.reshareOne(w, from, d, stays) {
			b.droppedMessage(d.Message, from.state.ID, d.QoS, trace.DroppedSessionGone)
		}
	}
	w.finish(b)
}

// reshareOne reports whether somebody has the message.
func (b *Broker) reshareOne(w *work, from *subscriber, d session.Delivery, stays bool) bool {
	g := b.router.share(d.Via.Share)
	for {
		var t *target
		if g != nil {
			t = g.pick(from)
		}
		if stays && (t == nil || !t.to.online.Load()) {
			if b.giveBack(w, from, d) {
				return true
			}
			stays = false // it has ended meanwhile
		}
		if t == nil && g != nil {
			t = g.other(from) // it is ours: to a full member if need be
		}
		if t == nil {
			return false
		}
		f := &w.fan
		f.begin(nil, w)
		f.scratch, f.kept, f.once = *d.Message, d.Message, true
		t.to.mu.Lock()
		if t.to.gone || !g.has(t) {
			t.to.mu.Unlock()
			continue
		}
		outcome := t.to.acceptLocked(f, t)
		t.to.mu.Unlock()
		g.answered(f, t)
		b.Outcomes[trace.Moved].Add(1)
		return b.delivered(f, t.to, t, outcome) || d.QoS == mqtt.QoS0
	}
}

// giveBack lets the message wait in the Session again. False: it has ended.
func (b *Broker) giveBack(w *work, s *subscriber, d session.Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return false
	}
	s.queueLocked(d)
	if s.conn != nil {
		s.pumpLocked(w.now)
		s.conn.scheduleLocked(w)
	}
	return true
}

// unshare takes the messages out of the Session that other members of its Shared
// Subscriptions may have; with a share, only those of that one.
func (s *subscriber) unshare(share string) []session.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := s.state.Queued()
	ds := s.state.Unshare(share)
	after, left := s.state.Queued()
	s.broker.queued.Add(int64(left - bytes))
	s.broker.QueuedMessages.Add(int64(after - n))
	s.levelLocked()
	return ds
}

// wakeShare lets a member that has just come take over what waits at members
// that are away.
func (b *Broker) wakeShare(filter string) {
	g := b.router.share(filter)
	if g == nil {
		return
	}
	for _, t := range g.list() {
		if !t.to.online.Load() && t.to.busy.Load() {
			b.reshare(t.to, t.to.unshare(filter), true)
		}
	}
}
