package crash

import (
	"slices"
	"strings"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// client is one Client Identifier with its present session, if any.
type client struct {
	name    string
	conn    *conn
	session *session
	asked   map[mqtt.PacketID]mark // SUBSCRIBE and UNSUBSCRIBE without an answer
	moves   []mark                 // when connections began and ended
	conns   []*conn

	// The end of the latest connections: when the broker may have seen it first,
	// and when last, and the shortest and longest Session Expiry that may count.
	endMark              mark
	endFirst, endLast    time.Duration
	expiryMin, expiryMax uint32
}

// conn is one Network Connection.
type conn struct {
	n          int
	opened     mark
	connect    mark
	fields     *connectFields
	acked      mark          // CONNACK that says success
	disconnect mark          // DISCONNECT was sent
	end        mark          // the first sign of its end
	last       time.Duration // the last sign
	over       bool          // it is closed at this end, or was cut by a kill
}

// session is a session of the broker, from the client's side.
type session struct {
	client   *client
	born     mark // the CONNECT that made it
	doubtful mark // from here on it may have ended; 0: it lives
	broken   mark // the broker has lost it, seen at this mark
	filters  map[string]*filter
	inbound  map[mqtt.PacketID]string // QoS 2 messages between PUBREC and PUBREL
	got      map[*message]*receipt
	latest   map[orderKey]*message
	retained map[string]bool // topics of which a retained message came
}

// receipt is how often a message was delivered, after the client's handling of
// repeated packets, and not counting retained messages sent on SUBSCRIBE.
type receipt struct {
	first   mark
	count   int
	exactly int // of these at QoS 2
}

// filter is a Topic Filter in a session.
type filter struct {
	pattern string
	share   string // the whole filter, if it is shared
	spans   []span
	grants  []grant
}

// span is the time of a subscription. 0 is "not yet".
type span struct {
	maybeFrom  mark // SUBSCRIBE sent
	sureFrom   mark // SUBACK received
	sureUntil  mark // UNSUBSCRIBE sent
	maybeUntil mark // UNSUBACK received
}

// grant is the time of a granted QoS.
type grant struct {
	span
	qos mqtt.QoS
}

func (s *span) sure(from, until mark) bool {
	return s.sureFrom > 0 && s.sureFrom < from && (s.sureUntil == 0 || s.sureUntil > until)
}

func (s *span) possible(from, until mark) bool {
	return s.maybeFrom <= until && (s.maybeUntil == 0 || s.maybeUntil >= from)
}

// kept reports whether the filter was there from before the mark to the end.
func (f *filter) kept(from mark) bool {
	last := len(f.spans) - 1
	return last >= 0 && f.spans[last].sure(from, endless-1) && f.spans[last].sureUntil == 0
}

// follow reads the history a second time and follows each client's connections
// and sessions.
func (m *model) follow() {
	for i := range m.h {
		e, at := &m.h[i], mark(i+1)
		if e.kind == killed {
			for _, name := range m.names {
				m.connEnds(m.clients[name], at)
			}
		}
		if e.client == "" {
			continue
		}
		c := m.clients[e.client]
		if c == nil {
			c = &client{name: e.client, asked: make(map[mqtt.PacketID]mark)}
			m.clients[e.client] = c
			m.names = append(m.names, e.client)
		}
		m.followClient(c, e, at)
	}
}

func (m *model) followClient(c *client, e *event, at mark) {
	switch e.kind {
	case opened:
		c.conn = &conn{n: e.conn, opened: at}
		c.conns = append(c.conns, c.conn)
		c.moves = append(c.moves, at)
	case closed, lost:
		if e.kind == lost && c.conn != nil && !m.lostForCause(c, at) {
			m.fail(faultClosed, c.name, []mark{c.conn.opened, at}, "the broker closed the connection: %s", e.text)
		}
		m.connEnds(c, at)
	case sent:
		m.followSent(c, e, at)
	case received:
		m.followReceived(c, e, at)
	}
}

// lostForCause reports whether the broker had a reason to end the connection: it
// was killed, or asked to by DISCONNECT.
func (m *model) lostForCause(c *client, at mark) bool {
	return c.conn.disconnect > 0 || lastBefore(m.kills, at) > lastBefore(m.readies, c.conn.opened)
}

// connEnds notes a sign that the client's connection has ended.
func (m *model) connEnds(c *client, at mark) {
	k, e := c.conn, m.event(at)
	if k == nil || k.over {
		return
	}
	k.over = e.kind != sent // after a DISCONNECT more signs follow
	first := k.end == 0
	if first {
		k.end = at
	}
	c.moves = append(c.moves, at)
	if k.fields == nil {
		return // it has asked for no session
	}
	k.last, c.endLast = e.at, e.at
	if !first {
		return
	}
	expiry := k.fields.expiry
	if k.acked > 0 || c.endMark == 0 {
		c.endMark, c.endFirst, c.expiryMin, c.expiryMax = at, e.at, expiry, expiry
	}
	c.expiryMin, c.expiryMax = min(c.expiryMin, expiry), max(c.expiryMax, expiry)
	if e.expiry != nil {
		c.expiryMin, c.expiryMax = min(c.expiryMin, *e.expiry), max(c.expiryMax, *e.expiry)
		if k.acked > 0 && !m.killedWithin(e.at, e.at+unsure) {
			c.expiryMax = *e.expiry
		}
	}
}

func (m *model) followSent(c *client, e *event, at mark) {
	switch e.packet {
	case packet.CONNECT:
		c.conn.connect, c.conn.fields = at, e.connect
		if e.connect.clean && c.session != nil {
			c.session.doubt(at)
		}
		if w := e.connect.will; w != nil {
			m.wills = append(m.wills, &will{client: c, conn: c.conn, message: m.byName[w.message], delay: w.delay})
		}
	case packet.DISCONNECT:
		c.conn.disconnect = at
		m.connEnds(c, at)
	case packet.SUBSCRIBE:
		c.asked[e.id] = at
		if c.session != nil {
			c.session.subscribe(e, at)
		}
	case packet.UNSUBSCRIBE:
		c.asked[e.id] = at
		if c.session != nil {
			c.session.unsubscribe(e, at)
		}
	}
}

func (m *model) followReceived(c *client, e *event, at mark) {
	s := c.session
	if e.packet == packet.CONNACK {
		m.connack(c, e, at)
		return
	}
	if s == nil {
		return
	}
	switch e.packet {
	case packet.SUBACK:
		if asked := c.asked[e.id]; asked > 0 {
			s.suback(m.event(asked), asked, e, at)
		}
		delete(c.asked, e.id)
	case packet.UNSUBACK:
		if asked := c.asked[e.id]; asked > 0 {
			s.unsuback(m.event(asked), at)
		}
		delete(c.asked, e.id)
	case packet.PUBLISH:
		m.delivered(s, e, at)
	case packet.PUBREL:
		delete(s.inbound, e.id)
	}
}

// connack says whether Session Present is right, and which session it is from
// now on.
func (m *model) connack(c *client, e *event, at mark) {
	k := c.conn
	if e.code != mqtt.Success {
		m.fail(faultClosed, c.name, []mark{k.connect, at}, "CONNECT was refused: %s", e.code)
		return
	}
	old, first, doubt := c.session, k.connect, c.doubtBefore(k)
	if doubt > 0 {
		first = doubt
	}
	mayBeOver := old != nil && c.endMark > 0 && passed(c.expiryMin, m.when(at)-c.endFirst)
	isOver := old != nil && c.endMark > 0 && passed(c.expiryMax, m.when(k.connect)-m.endSeen(c, k.connect)-late)
	k.acked = at
	c.moves = append(c.moves, at)
	clear(c.asked)
	switch {
	case k.fields.clean:
		if e.present {
			m.fail(faultSession, c.name, []mark{k.connect, at}, "Session Present, although CONNECT says Clean Start")
		}
	case e.present && (old == nil || isOver) && doubt == 0:
		m.fail(faultSession, c.name, []mark{c.endMark, k.connect, at}, "Session Present, and there can be none%s", map[bool]string{true: ": it has expired"}[isOver])
	case !e.present && old != nil && !mayBeOver && old.doubtful == 0:
		m.fail(faultSession, c.name, []mark{old.born, k.connect, at}, "the session is gone")
		old.broken = at
	}
	if e.present {
		m.totals.Resumed++
	}
	if e.present && old != nil && !(doubt > 0 && c.fleeting(k)) {
		if doubt > 0 && mayBeOver {
			old.doubt(k.connect) // it may be one that the unanswered CONNECT has made
		}
		return
	}
	m.totals.Sessions++
	if old != nil && old.broken == 0 {
		old.doubt(max(c.endMark, old.born))
	}
	c.session = &session{
		client: c, born: first, filters: make(map[string]*filter), inbound: make(map[mqtt.PacketID]string),
		got: make(map[*message]*receipt), latest: make(map[orderKey]*message), retained: make(map[string]bool),
	}
	m.sessions = append(m.sessions, c.session)
}

// fleeting reports whether the session of the last connection that was answered
// ended with it.
func (c *client) fleeting(k *conn) bool {
	for _, earlier := range slices.Backward(c.conns) {
		if earlier != k && earlier.acked > 0 {
			return earlier.fields.expiry == 0
		}
	}
	return false
}

// doubtBefore is the first CONNECT since the last CONNACK that got no answer.
func (c *client) doubtBefore(k *conn) mark {
	var first mark
	for _, earlier := range slices.Backward(c.conns) {
		if earlier == k {
			continue
		}
		if earlier.acked > 0 {
			break
		}
		if earlier.connect > 0 {
			first = earlier.connect
		}
	}
	return first
}

// endSeen is when the broker has seen the end of the connection at the latest:
// one that was killed may see it when it is back.
func (m *model) endSeen(c *client, before mark) time.Duration {
	seen := c.endLast
	if at := lastBefore(m.readies, before); at > 0 {
		seen = max(seen, m.when(at))
	}
	return seen
}

// passed reports whether an expiry in seconds has passed.
func passed(seconds uint32, since time.Duration) bool {
	return seconds != forever && since >= time.Duration(seconds)*time.Second
}

// doubt says that the session may have ended.
func (s *session) doubt(at mark) {
	if s.doubtful == 0 {
		s.doubtful = at
	}
}

// alive reports whether the session must be there at the end of the history.
func (m *model) alive(s *session) bool {
	c := s.client
	if s.doubtful > 0 || c.session != s {
		return false
	}
	return c.conn == nil || c.conn.end == 0 || !passed(c.expiryMin, m.end()-c.endFirst)
}

// promised reports whether the session was promised what came before the mark:
// it is alive, or the broker lost it later.
func (m *model) promised(s *session, before mark) bool {
	if s.broken > 0 {
		return before < s.broken && s.doubtful == 0
	}
	return m.alive(s)
}

func (s *session) filter(name string) *filter {
	f := s.filters[name]
	if f == nil {
		f = &filter{pattern: name}
		if rest, ok := strings.CutPrefix(name, "$share/"); ok {
			f.share = name
			_, f.pattern, _ = strings.Cut(rest, "/")
		}
		s.filters[name] = f
	}
	return f
}

func (s *session) subscribe(e *event, at mark) {
	for _, sub := range e.subs {
		f := s.filter(sub.filter)
		if n := len(f.spans); n == 0 || f.spans[n-1].sureUntil > 0 || f.spans[n-1].maybeUntil > 0 {
			f.spans = append(f.spans, span{maybeFrom: at})
		}
		for i := range f.grants {
			f.grants[i].stopSure(at)
		}
		f.grants = append(f.grants, grant{span{maybeFrom: at}, sub.qos})
	}
}

func (s *span) stopSure(at mark) {
	if s.sureUntil == 0 {
		s.sureUntil = at
	}
}

func (s *span) stop(at mark) {
	s.stopSure(at)
	if s.maybeUntil == 0 {
		s.maybeUntil = at
	}
}

func (s *session) suback(asked *event, askedAt mark, e *event, at mark) {
	for i, sub := range asked.subs {
		f := s.filter(sub.filter)
		if i >= len(e.codes) || e.codes[i].Failed() {
			continue // neither sure nor impossible
		}
		if last := &f.spans[len(f.spans)-1]; last.sureFrom == 0 && last.sureUntil == 0 {
			last.sureFrom = at
		}
		for j := range f.grants {
			g := &f.grants[j]
			if g.maybeFrom < askedAt {
				g.stop(at)
			}
			if g.maybeFrom == askedAt {
				g.qos = mqtt.QoS(e.codes[i])
				if g.sureUntil == 0 {
					g.sureFrom = at
				}
			}
		}
	}
}

func (s *session) unsubscribe(e *event, at mark) {
	for _, sub := range e.subs {
		f := s.filter(sub.filter)
		for i := range f.spans {
			f.spans[i].stopSure(at)
		}
		for i := range f.grants {
			f.grants[i].stopSure(at)
		}
	}
}

func (s *session) unsuback(asked *event, at mark) {
	for _, sub := range asked.subs {
		f := s.filter(sub.filter)
		for i := range f.spans {
			f.spans[i].stop(at)
		}
		for i := range f.grants {
			f.grants[i].stop(at)
		}
	}
}
