package broker

import (
	"strings"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
)

// subscribe creates subscriptions, acknowledges them, and has the Retained
// Messages sent that match.
func (c *conn) subscribe(p *packet.Subscribe) error {
	if err := c.commitTicket(); err != nil { // what came before it
		return err
	}
	var id uint32
	if p.Properties.Has(mqtt.SubscriptionIdentifier) {
		id = p.Properties.SubscriptionID
	}
	ack := &packet.Suback{ID: p.ID, Reasons: make([]mqtt.ReasonCode, 0, len(p.Subscriptions))} // [MQTT-3.8.4-6]
	who := c.access.Load()
	var subs []*session.Subscription
	var ops []*journal.Op
	for _, asked := range p.Subscriptions {
		sub, reason, err := session.ParseSubscription(asked, id)
		if err != nil {
			return err
		}
		if sub != nil {
			reason = c.admitSubscription(who, sub, len(subs))
		}
		ack.Reasons = append(ack.Reasons, reason)
		if !reason.Failed() {
			subs = append(subs, sub)
			ops = append(ops, &journal.Op{Kind: journal.Subscribe, Client: c.session.state.ID, Subscription: writtenSubscription(sub)})
		}
	}
	if c.version == mqtt.V31 && anyFailed(ack.Reasons) { // its SUBACK can't say no
		return violation(mqtt.TopicFilterInvalid, "a topic filter is not accepted")
	}
	var scans []scan
	err := c.record(ops, func(number uint64) {
		scans = c.session.subscribeLocked(subs, number)
		c.session.fresh = scans // a checkpoint may come before follow
	})
	if err != nil {
		refuseAll(ack.Reasons, unkept(err).Code)
	}
	for _, r := range ack.Reasons {
		if r.Failed() {
			c.broker.refusedFor[r].Add(1)
		}
	}
	if now := c.access.Load(); now != who && len(subs) > 0 { // it was looked at without these
		if err := c.session.restrict(now); err != nil {
			return &session.Error{Reason: unkept(err).Code, What: unkept(err).Reason}
		}
	}
	if err := c.reply(ack); err != nil {
		return err
	}
	c.follow(len(scans) > 0)
	c.wakeShares(p)
	return nil
}

// record has do done under the Session's lock: in a durable Session once ops are
// in the journal, in others at once.
func (c *conn) record(ops []*journal.Op, do func(number uint64)) error {
	s := c.session
	locked := func(number uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		do(number)
		if number > 0 {
			s.number = number + uint64(len(ops)) - 1
			s.dirtyLocked()
		}
	}
	if !s.durable || len(ops) == 0 {
		locked(0)
		return nil
	}
	c.work.flushDirty()
	return c.broker.commitOps(locked, ops...)
}

func refuseAll(rs []mqtt.ReasonCode, r mqtt.ReasonCode) {
	for i := range rs {
		if !rs[i].Failed() {
			rs[i] = r
		}
	}
}

// admitSubscription says whether the subscription is allowed and within the
// limits: the Reason Code for the SUBACK. Others of the same SUBSCRIBE have been
// admitted before it.
func (c *conn) admitSubscription(who *access, sub *session.Subscription, others int) mqtt.ReasonCode {
	b := c.broker
	if most := b.limits.TopicLevels; most > 0 && strings.Count(sub.Filter.Pattern, "/") >= most {
		return mqtt.TopicFilterInvalid
	}
	if v := who.subscribe(sub); !v.Allowed() {
		return v.Code
	}
	state, most := &c.session.state, b.limits.Subscriptions
	if l := who.limits().Subscriptions; l > 0 {
		most = min(most, l)
	}
	if others >= most || state.SubscriptionCount()+others >= most && !state.Subscribed(sub) {
		return mqtt.QuotaExceeded
	}
	return mqtt.ReasonCode(sub.QoS)
}

// subscribeLocked makes the subscriptions and returns the Retained Messages that
// they are owed: those from before anything comes live. From first on, if it is
// not 0, are the numbers of the ops.
func (s *subscriber) subscribeLocked(subs []*session.Subscription, first uint64) (scans []scan) {
	b := s.broker
	for i, sub := range subs {
		old := s.state.Subscribe(sub)
		b.router.subscribe(s, sub)
		if old == nil {
			b.Subscriptions.Add(1)
		}
		if sub.WantsRetained(old != nil) {
			sc := b.retained.scan(sub)
			if first > 0 && sub.QoS > mqtt.QoS0 {
				sc.last = first + uint64(i)
			}
			scans = append(scans, sc)
		}
	}
	return scans
}

func anyFailed(rs []mqtt.ReasonCode) bool {
	for _, r := range rs {
		if r.Failed() {
			return true
		}
	}
	return false
}

// follow puts the replies so far into the outbox, SUBACK last, and lets the
// Retained Messages follow.
func (c *conn) follow(scans bool) {
	s, w := c.session, c.work
	s.mu.Lock()
	defer s.mu.Unlock()
	c.repliesLocked(w)
	if scans {
		s.freshLocked()
		s.pumpLocked(w.now)
	}
}

// freshLocked lets the Retained Messages of new subscriptions follow.
func (s *subscriber) freshLocked() {
	s.scans, s.fresh = append(s.scans, s.fresh...), nil
}

// wakeShares lets the Client take over what waits at absent members of Shared
// Subscriptions that it has joined.
func (c *conn) wakeShares(p *packet.Subscribe) {
	for _, asked := range p.Subscriptions {
		if strings.HasPrefix(asked.Filter, "$share/") {
			c.broker.wakeShare(asked.Filter)
		}
	}
}

// unsubscribe ends subscriptions. After the UNSUBACK nothing new comes by them
// [MQTT-3.10.4-2]; what is under way or waits is still delivered
// [MQTT-3.10.4-3].
func (c *conn) unsubscribe(p *packet.Unsubscribe) error {
	if err := c.commitTicket(); err != nil { // what came before it
		return err
	}
	ack := &packet.Unsuback{ID: p.ID, Reasons: make([]mqtt.ReasonCode, len(p.Filters))}
	var ops []*journal.Op
	for _, filter := range p.Filters {
		if c.session.state.Has(filter) {
			ops = append(ops, &journal.Op{Kind: journal.Unsubscribe, Client: c.session.state.ID, Subscription: journal.Subscription{Filter: filter}})
		}
	}
	err := c.record(ops, func(uint64) {
		for i, filter := range p.Filters {
			if ack.Reasons[i] = mqtt.NoSubscriptionExisted; c.session.unsubscribeLocked(filter) != nil {
				ack.Reasons[i] = mqtt.Success
			}
		}
	})
	switch {
	case err == nil:
	case c.version < mqtt.V5: // its UNSUBACK can't say no
		return violation(unkept(err).Code, "%s", unkept(err).Reason)
	default:
		refuseAll(ack.Reasons, unkept(err).Code)
	}
	return c.reply(ack)
}

// unsubscribeLocked returns the subscription that it has ended, or nil.
func (s *subscriber) unsubscribeLocked(filter string) *session.Subscription {
	sub := s.state.Unsubscribe(filter)
	if sub != nil {
		s.broker.router.unsubscribe(s, sub)
		s.broker.Subscriptions.Add(-1)
	}
	return sub
}

// scan is the sending of Retained Messages to a new subscription, in the order of
// retaining. It looks at them a page at a time, so a million of them need neither
// memory nor a long lock.
type scan struct {
	sub  *session.Subscription
	via  *session.Via
	upTo uint64 // in the order of retaining: those that were retained later have come live

	begun bool
	done  bool               // what is left is in items
	after uint64             // what comes up to this one in the order of retaining is, or was, in items
	items []*retainedMessage // of this page, still to be sent

	// In a durable Session a scan for QoS 1 or 2 goes on after a restart. These are
	// numbers of ops; 0: not known.
	last uint64 // of the SUBSCRIBE; 0: the scan does not go on
	from uint64 // messages up to this one have been sent
	sent uint64 // those at QoS 2 have been sent up to this one, as the journal knows
}

// wants reports whether the message is of those that were there when the
// subscription was made, and has not been sent.
func (sc *scan) wants(k *retainedMessage) bool {
	n := k.message.Number
	switch {
	case k.number > sc.upTo || sc.last > 0 && n > sc.last:
		return false
	case n > 0 && n <= sc.from:
		return false
	}
	return n == 0 || n > sc.sent || min(k.message.QoS, sc.sub.QoS) < mqtt.QoS2
}

// scanLocked sends Retained Messages as long as there is room. One that has been
// replaced meanwhile is left out: the subscription has got what took its place.
func (s *subscriber) scanLocked(c *conn, now time.Time) {
	if len(s.scans) == 0 {
		return
	}
	if s.durable {
		s.dirtyLocked()
	}
	for pages := scanPages; len(s.scans) > 0; {
		sc := &s.scans[0]
		if !s.scanPageLocked(c, sc, now) {
			return
		}
		if sc.done {
			s.scans = s.scans[1:]
			continue
		}
		if pages--; pages < 0 {
			s.scanLaterLocked()
			return
		}
		// Only now, one subscription after the other: a client that subscribes to
		// everything in a hundred ways holds one page at a time.
		var more bool
		sc.items, more = s.broker.retained.page(sc)
		sc.done = !more
	}
	s.scans = nil
}

// scanPages is how many pages a scan takes before it lets others have the Session.
const scanPages = 8

// scanLaterLocked goes on with the scan in a while, from another goroutine.
func (s *subscriber) scanLaterLocked() {
	if s.scanning {
		return
	}
	s.scanning = true
	s.broker.spawn(func() {
		w := newWork(s.broker.now())
		s.mu.Lock()
		s.scanning = false
		if c := s.conn; c != nil {
			s.pumpLocked(w.now)
			c.scheduleLocked(w)
		}
		s.mu.Unlock()
		w.finish(s.broker)
	})
}

// scanPageLocked sends the items of the page and reports whether all of them have
// gone.
func (s *subscriber) scanPageLocked(c *conn, sc *scan, now time.Time) bool {
	for len(sc.items) > 0 {
		k := sc.items[0]
		q := min(k.message.QoS, sc.sub.QoS)
		if c.len() >= highWater || q > mqtt.QoS0 && !s.state.Open() {
			return false
		}
		sc.items[0], sc.items = nil, sc.items[1:]
		sc.from = max(sc.from, k.message.Number)
		if k.gone.Load() || k.message.Expired(now) || !s.mayReceiveLocked(k.message) {
			continue
		}
		out := session.Outgoing{Type: packet.PUBLISH}
		out.Delivery = session.Delivery{Message: k.message, Via: sc.via, QoS: q, Retain: true} // [MQTT-3.3.1-8]
		if q > mqtt.QoS0 {
			hold := s.holds(out.Delivery)
			if out.ID = s.state.Send(out.Delivery, hold); hold {
				s.markSendLocked(out.ID, out.Delivery, true)
				continue
			}
		}
		s.sendLocked(c, out, now)
	}
	return true
}

// owedLocked are the scans that must go on after a restart, as a checkpoint keeps
// them: those under way, and those that wait for their SUBACK.
func (s *subscriber) owedLocked() (owed []journal.Owed) {
	for _, list := range [][]scan{s.scans, s.fresh} {
		for i := range list {
			if sc := &list[i]; sc.last > 0 {
				owed = append(owed, journal.Owed{Subscription: writtenSubscription(sc.sub), UpTo: sc.last, From: sc.from, Sent: sc.sent})
			}
		}
	}
	return owed
}

// scannedLocked notes, after a restart, that the journal says of the Retained Message
// that it has been sent at QoS 2.
func (s *subscriber) scannedLocked(m *mqtt.Message) {
	for len(s.scans) > 0 {
		sc := &s.scans[0]
		if m.Number > sc.sent && m.Number <= sc.last && topic.Match(sc.sub.Filter.Pattern, m.Topic) {
			sc.sent = m.Number
			return
		}
		s.scans = s.scans[1:] // the next one would not have begun else
	}
}
