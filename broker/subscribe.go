package broker

import (
	"strings"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
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
	var subs []*session.Subscription
	var ops []*journal.Op
	for _, asked := range p.Subscriptions {
		sub, reason, err := session.ParseSubscription(asked, id)
		if err != nil {
			return err
		}
		if sub != nil {
			reason = c.admitSubscription(sub, len(subs))
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
	err := c.record(ops, func(number uint64) { scans = c.session.subscribeLocked(subs, number) })
	if err != nil {
		refuseAll(ack.Reasons, unkept(err).Code)
	}
	for _, r := range ack.Reasons {
		if r.Failed() {
			c.broker.refusedFor[r].Add(1)
		}
	}
	if err := c.reply(ack); err != nil {
		return err
	}
	c.follow(scans)
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
func (c *conn) admitSubscription(sub *session.Subscription, others int) mqtt.ReasonCode {
	b := c.broker
	if most := b.limits.TopicLevels; most > 0 && strings.Count(sub.Filter.Pattern, "/") >= most {
		return mqtt.TopicFilterInvalid
	}
	if b.admission != nil {
		if v := b.admission.Subscribe(c.principal, sub); !v.Allowed() {
			return v.Code
		}
	}
	state, most := &c.session.state, b.limits.Subscriptions
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
	for _, sub := range subs {
		old := s.state.Subscribe(sub)
		b.router.subscribe(s, sub)
		if old == nil {
			b.Subscriptions.Add(1)
		}
		if sub.WantsRetained(old != nil) {
			scans = append(scans, b.retained.scan(sub))
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
func (c *conn) follow(scans []scan) {
	s, w := c.session, c.work
	s.mu.Lock()
	defer s.mu.Unlock()
	c.repliesLocked(w)
	if len(scans) > 0 {
		s.scans = append(s.scans, scans...)
		s.pumpLocked(w.now)
	}
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
			if ack.Reasons[i] = mqtt.NoSubscriptionExisted; c.session.unsubscribeLocked(filter) {
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

// unsubscribeLocked reports whether there was such a subscription.
func (s *subscriber) unsubscribeLocked(filter string) bool {
	sub := s.state.Unsubscribe(filter)
	if sub == nil {
		return false
	}
	s.broker.router.unsubscribe(s, sub)
	s.broker.Subscriptions.Add(-1)
	return true
}

// scan is the sending of Retained Messages to a new subscription. It holds
// references, so a hundred thousand of them need neither copies nor an outbox.
type scan struct {
	sub   *session.Subscription
	via   *session.Via
	upTo  uint64 // messages that were retained later have come live
	begun bool
	items []*retainedMessage // still to be sent
}

// scanLocked sends Retained Messages as long as there is room. One that has been
// replaced meanwhile is left out: the subscription has got what took its place.
func (s *subscriber) scanLocked(c *conn, now time.Time) {
	for len(s.scans) > 0 {
		if !s.scanOneLocked(c, &s.scans[0], now) {
			return
		}
		s.scans = s.scans[1:]
	}
	s.scans = nil
}

// scanOneLocked reports whether the scan is through.
func (s *subscriber) scanOneLocked(c *conn, sc *scan, now time.Time) bool {
	if !sc.begun {
		// Only now, one subscription after the other: a client that subscribes to
		// everything in a hundred ways holds one list at a time.
		sc.items, sc.begun = s.broker.retained.match(sc.sub.Filter.Pattern, sc.upTo), true
	}
	for len(sc.items) > 0 {
		k := sc.items[0]
		q := min(k.message.QoS, sc.sub.QoS)
		if c.len() >= highWater || q > mqtt.QoS0 && !s.state.Open() {
			return false
		}
		sc.items[0], sc.items = nil, sc.items[1:]
		if k.gone.Load() || k.message.Expired(now) {
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
