package broker

import (
	"cmp"
	"slices"
	"time"

	"fairlead/auth"
	"fairlead/mqtt"
	"fairlead/policy"
)

// Member is a Session as administration sees it.
type Member struct {
	Client        mqtt.ClientID
	Identity      *auth.Identity // nil: nobody was asked, or not since the start
	Owner         string         // whose the Session is: "device:NAME", "user:NAME"; empty: nobody's
	Connected     bool
	Remote        string    // the Client's address; empty if it is away
	Since         time.Time // of the connection
	Version       mqtt.Version
	Subscriptions []policy.Subscription // in no particular order
	Published     []policy.Publication  // topics that its connection has published to lately, at most 64
}

// Members lists all Sessions, by Client Identifier. It holds each of them for a moment
// only, so they need not be of the same moment.
func (b *Broker) Members() []Member {
	b.mu.Lock()
	all := make([]*subscriber, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.Unlock()
	members := make([]Member, 0, len(all))
	for _, s := range all {
		if m, ok := s.member(); ok {
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Client, b.Client) })
	return members
}

// Member returns the Session of a Client Identifier.
func (b *Broker) Member(id mqtt.ClientID) (Member, bool) {
	b.mu.Lock()
	s := b.sessions[id]
	b.mu.Unlock()
	if s == nil {
		return Member{}, false
	}
	return s.member()
}

func (s *subscriber) member() (m Member, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return Member{}, false
	}
	m = Member{Client: s.state.ID, Owner: s.owner}
	if s.access != nil {
		m.Identity = s.access.identity
	}
	for sub := range s.state.Subscriptions() {
		m.Subscriptions = append(m.Subscriptions, policy.Subscription{Filter: sub.Filter, QoS: sub.QoS})
	}
	if c := s.conn; c != nil {
		m.Connected, m.Remote, m.Since, m.Version = true, c.nc.RemoteAddr().String(), c.since, c.version
		m.Published = c.published.list()
	}
	return m, true
}

// publishedMost is how many topics of a connection are remembered; beyond it the oldest
// is forgotten.
const publishedMost = 64

// published are the topics that a connection has published to lately, each as its
// message was when it was new to the connection's memory of routes.
type published struct {
	topics []policy.Publication
	next   int // where the next one goes once there are publishedMost
}

// note is called for a topic that the connection does not remember.
func (p *published) note(m policy.Publication) {
	if i := slices.IndexFunc(p.topics, func(o policy.Publication) bool { return o.Topic == m.Topic }); i >= 0 {
		old := &p.topics[i]
		old.QoS, old.Retain, old.PayloadBytes = max(old.QoS, m.QoS), old.Retain || m.Retain, max(old.PayloadBytes, m.PayloadBytes)
		return
	}
	if len(p.topics) < publishedMost {
		p.topics = append(p.topics, m)
		return
	}
	p.topics[p.next] = m
	p.next = (p.next + 1) % publishedMost
}

func (p *published) list() []policy.Publication {
	if p == nil {
		return nil
	}
	return slices.Clone(p.topics)
}

// Disconnect sends the Client away for the reason that its DISCONNECT gives, and reports
// whether it was connected.
func (b *Broker) Disconnect(id mqtt.ClientID, r mqtt.ReasonCode, why string) bool {
	b.mu.Lock()
	s := b.sessions[id]
	b.mu.Unlock()
	if s == nil {
		return false
	}
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c == nil {
		return false
	}
	c.kick(r, why)
	return true
}

// RetainedNames lists the Topic Names of at most so many Retained Messages, without the
// broker's own.
func (b *Broker) RetainedNames(most int) []string {
	r := &b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, min(most, r.names.Len()))
	for _, l := range r.log {
		if len(names) >= most {
			break
		}
		if l.retainedMessage != nil && !isSys(l.message.Topic) {
			names = append(names, l.message.Topic)
		}
	}
	return names
}
