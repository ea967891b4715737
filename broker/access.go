package broker

import (
	"strings"
	"sync"
	"time"

	"fairlead/auth"
	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/policy"
)

// Authenticator says who is behind a Network Connection. A nil Authenticator asks
// nobody. [auth.Chain] is one.
type Authenticator interface {
	// Identify decides by what the CONNECT and the connection show. It may wait; only
	// this one connection waits with it. The Identity is nil if the Verdict is no.
	Identify(c auth.Credentials) (*auth.Identity, policy.Verdict)
	// Exchange begins enhanced authentication by the given Authentication Method, or
	// returns nil if there is no such method [MQTT-4.12.0-1].
	Exchange(method string, c auth.Credentials) auth.Exchange
	// Recheck looks at the grounds of an Identity once more, and returns what it is now;
	// nil if the Client may not stay, and then the Code for its DISCONNECT. Why is for
	// the log.
	Recheck(id *auth.Identity, client mqtt.ClientID) (now *auth.Identity, v policy.Verdict, why string)
}

// Admission says what Principals may do. Its methods must not wait. A nil Admission
// allows everything. [policy.Set] has the rights.
type Admission interface {
	// Rights are what the principal may do from now on; nil: everything.
	Rights(p *policy.Principal) *policy.Rights
	// Reserved reports whether the Client Identifier is that of a registered device.
	Reserved(id mqtt.ClientID) bool
}

// access is who a Client is, and what it may do. It does not change; a change gives
// connection and Session another one.
type access struct {
	identity *auth.Identity // nil: nobody was asked
	rights   *policy.Rights // nil: everything
}

// openAccess is that of all Clients of a broker that asks nobody.
var openAccess = &access{}

// rightsOf are those of the identity now.
func (b *Broker) rightsOf(id *auth.Identity) *policy.Rights {
	if b.admission == nil || id == nil {
		return nil
	}
	return b.admission.Rights(&id.Principal)
}

// publish says whether the message may be published.
func (a *access) publish(m *mqtt.Message) policy.Verdict {
	if a.rights == nil {
		return allowed
	}
	return a.rights.Publish(m.Topic, m.QoS, m.Retain, len(m.Payload))
}

// subscribe says whether the subscription may be had.
func (a *access) subscribe(s *session.Subscription) policy.Verdict {
	if a.rights == nil {
		return allowed
	}
	return a.rights.Subscribe(s.Filter, s.QoS)
}

// limits are what bounds the Client beside what it may reach.
func (a *access) limits() policy.Limits {
	if a.rights == nil {
		return policy.Limits{}
	}
	return a.rights.Limits()
}

// owner names whose the Client's Session is; empty: nobody's in particular.
func (a *access) owner() string {
	switch id := a.identity; {
	case id == nil || id.Method == policy.MethodOpen:
		return ""
	case id.Device != "":
		return "device:" + id.Device
	case id.User != "":
		return "user:" + id.User
	}
	return ""
}

// owned refuses a Session that is somebody else's: who is let in by one name can't
// take what waits for another by using its Client Identifier.
func (s *subscriber) owned(a *access) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == "" || s.owner == a.owner() {
		return nil
	}
	s.broker.logger.Warn("client refused: the session of its client identifier is somebody else's", "client", s.state.ID, "owner", s.owner, "who", a.owner())
	return violation(mqtt.ClientIdentifierNotValid, "the client identifier is in use by somebody else")
}

// enter says whether the Client may connect on these terms, which it narrows to what
// it may have: its Client Identifier, its Will, its Session Expiry Interval.
func (a *access) enter(b *Broker, l *session.Link) policy.Verdict {
	if a.rights == nil {
		return allowed
	}
	if v := a.rights.Connect(l.ID, b.admission.Reserved(l.ID)); !v.Allowed() {
		return v
	}
	if l.Will != nil {
		if v := a.publish(&l.Will.Message); !v.Allowed() {
			return policy.Verdict{Code: v.Code, Reason: "the will may not be published: " + v.Reason}
		}
	}
	if most := a.limits().SessionExpiry; most > 0 {
		l.LimitExpiry(seconds(most))
	}
	return allowed
}

// seconds rounds a limit down to whole seconds, at least one.
func seconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Second, 1), session.ExpiryNever-1))
}

// ownTopic reports whether only the broker publishes to the topic.
func ownTopic(name string) bool {
	return isSys(name) || strings.HasPrefix(name, "$fairlead/") || name == "$fairlead"
}

// restrict holds what a Session has from before against what its Client may now: it
// ends subscriptions that it may not have any more, and has what waits looked at when
// it is sent. The caller holds attach, or is the connection's goroutine. The error says
// that it could not be put on record; nothing has been done then.
func (s *subscriber) restrict(a *access) error {
	b := s.broker
	s.mu.Lock()
	s.access = a
	s.sifting = a.rights != nil
	var filters []string
	var ops []*journal.Op
	for sub := range s.state.Subscriptions() {
		if a.subscribe(sub).Allowed() {
			continue
		}
		filter := sub.Filter.String()
		filters = append(filters, filter)
		ops = append(ops, &journal.Op{Kind: journal.Unsubscribe, Client: s.state.ID, Subscription: journal.Subscription{Filter: filter}})
	}
	s.mu.Unlock()
	if len(filters) == 0 {
		return nil
	}
	lose := func(number uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, filter := range filters {
			if s.unsubscribeLocked(filter) != nil {
				b.RevokedSubscriptions.Add(1)
			}
		}
		if number > 0 {
			s.number = number + uint64(len(ops)) - 1
			s.dirtyLocked()
		}
	}
	var err error
	if s.durable {
		err = b.commitOps(lose, ops...)
	} else {
		lose(0)
	}
	if err != nil {
		return err
	}
	b.logger.Info("subscriptions ended: the client may not have them any more", "client", s.state.ID, "filters", filters)
	for _, filter := range filters {
		b.reshare(s, s.unshare(filter), false)
	}
	return nil
}

// mayReceive reports whether the Client may see what has waited for it. Once nothing
// waits any more, nothing needs to be looked at.
func (s *subscriber) mayReceiveLocked(m *mqtt.Message) bool {
	return !s.sifting || s.access == nil || s.access.rights == nil || s.access.rights.Receive(m.Topic)
}

// Reevaluate has the Sessions looked at again whose identity the func touched points
// out, because the registry or the policies have changed: a Client that may not stay is
// disconnected; a Session loses the subscriptions, and the messages, that it may not
// have any more. Nothing else is disturbed.
func (b *Broker) Reevaluate(touched func(id *auth.Identity) bool) {
	b.mu.Lock()
	all := make([]*subscriber, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.Unlock()
	// Together, because each may have to wait for the disk, and one fsync serves many.
	var wg sync.WaitGroup
	turns := make(chan struct{}, reevaluateAtOnce)
	for _, s := range all {
		s.mu.Lock()
		a, gone := s.access, s.gone
		s.mu.Unlock()
		if a == nil || a.identity == nil || gone || !touched(a.identity) {
			continue
		}
		turns <- struct{}{}
		wg.Go(func() {
			b.reevaluate(s, a)
			<-turns
		})
	}
	wg.Wait()
}

// reevaluateAtOnce is how many Sessions are looked at at the same time.
const reevaluateAtOnce = 256

func (b *Broker) reevaluate(s *subscriber, old *access) {
	id, v, why := b.auth.Recheck(old.identity, s.state.ID)
	now := &access{identity: id}
	if v.Allowed() {
		now.rights = b.rightsOf(id)
		if now.rights != nil {
			v = now.rights.Connect(s.state.ID, b.admission.Reserved(s.state.ID))
			why = v.Reason
		}
	}
	s.attach.Lock() // no other connection takes the Session meanwhile
	defer s.attach.Unlock()
	s.mu.Lock()
	if s.access != old { // another connection has come, and was looked at
		s.mu.Unlock()
		return
	}
	c := s.conn
	s.mu.Unlock()
	if !v.Allowed() {
		if c != nil {
			b.Revoked.Add(1)
			b.logger.Info("client sent away: it may not be connected any more", "client", s.state.ID, "why", why)
			c.kick(v.Code, revoked)
		}
		return
	}
	if c != nil {
		if !c.access.CompareAndSwap(old, now) {
			return // it has just shown anew who it is
		}
		c.expireAt(id.Expires)
	}
	if now.rights != nil && old.rights != nil && now.rights.Same(old.rights) {
		s.mu.Lock()
		if s.access == old {
			s.access = now
		}
		s.mu.Unlock()
		return
	}
	if err := s.restrict(now); err != nil && c != nil {
		c.kick(unkept(err).Code, unkept(err).Reason) // it comes back with what it may have
	}
}

// revoked is what a Client is told that may not stay; why is the operator's.
const revoked = "the broker's operator has changed what this client may do"

// expireAt ends the connection when its identity does; a zero time: never.
func (c *conn) expireAt(at time.Time) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	if at.IsZero() || s.conn != c {
		return
	}
	c.expiry = time.AfterFunc(at.Sub(c.broker.now()), func() {
		c.kick(mqtt.MaximumConnectTime, "the credentials have expired")
	})
}

// pace holds a Client to the rates of its policy: it is read from no faster.
type pace struct {
	limits policy.Limits
	at     time.Time // when the buckets were looked at
	// What may still be sent at once; negative: too much was.
	messages, bytes float64
}

// take notes what a batch has published and returns how long the Client has to wait
// before the next one.
func (p *pace) take(l policy.Limits, now time.Time, messages, bytes int) time.Duration {
	if l.Messages != p.limits.Messages || l.Bytes != p.limits.Bytes || p.at.IsZero() {
		p.limits, p.at = l, now
		p.messages, p.bytes = float64(l.Messages.Count), float64(l.Bytes.Count)
	}
	passed := now.Sub(p.at)
	p.at = now
	return max(drain(&p.messages, l.Messages, passed, messages), drain(&p.bytes, l.Bytes, passed, bytes))
}

// drain fills the bucket for the time that has passed, takes n from it, and returns how
// long it takes to have something in it again.
func drain(level *float64, r policy.Rate, passed time.Duration, n int) time.Duration {
	if r.Count <= 0 || r.Per <= 0 {
		return 0
	}
	each := float64(r.Per) / float64(r.Count) // time for one
	*level = min(*level+float64(passed)/each, float64(r.Count)) - float64(n)
	if *level >= 0 {
		return 0
	}
	return time.Duration(-*level * each)
}

// slow waits until the Client may be read from again.
func (c *conn) slow(published, bytes int) {
	a := c.access.Load()
	if a == nil || a.rights == nil || published == 0 {
		return
	}
	l := a.limits()
	if l.Messages.Count == 0 && l.Bytes.Count == 0 {
		return
	}
	if c.pace == nil {
		c.pace = new(pace)
	}
	wait := c.pace.take(l, c.broker.now(), published, bytes)
	if wait <= 0 {
		return
	}
	c.broker.Slowed.Add(1)
	for until := c.broker.now().Add(wait); c.kicked.Load() == nil && wait > 0; wait = until.Sub(c.broker.now()) {
		time.Sleep(min(wait, slowStep)) // a peer that is sent away meanwhile goes soon
	}
}

// slowStep is how long a Client that is slowed may be deaf to being sent away.
const slowStep = 250 * time.Millisecond
