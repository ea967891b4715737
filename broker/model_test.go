package broker

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"fairlead/mqtt"
)

// model judges what clients see, by the standard and by what was acknowledged to
// them. It is naive: it keeps everything, and asks for nothing where a failure of
// the disk leaves two outcomes open.
type model struct {
	limit    limit
	at       string // the step
	clock    int    // grows with all that happens
	messages map[string]*message
	order    []*message
	counts   map[string]int // of messages, by client: they make the keys
	sessions []*past
	trouble  bool // the journal fails or waits: answers may be missing
	crashing bool
	left     int // when a client last left a Shared Subscription
	goneAt   int // when the broker last ended
}

const notYet = math.MaxInt

// message is one Application Message.
type message struct {
	key, topic, by string
	qos            mqtt.QoS
	retain, empty  bool
	bytes          int
	expiry         time.Duration // Message Expiry Interval; 0: none
	resent         bool          // after a reconnect
	troubled       bool          // the journal failed when it was sent: what was refused may come again, later
	seq            int
	sent, acked    int       // by the model's clock
	first, last    time.Time // when it was sent, and sent again

	isWill    bool
	may, must bool // it may be published, it must be
	due       time.Time
	seen      map[string]bool // by client
	seen2     int             // QoS 2 receptions over all Sessions, by Shared Subscriptions
	shares    map[uint32]int  // receptions by Subscription Identifier
	shares2   map[uint32]int  // those at QoS 2
	unnamed   bool            // received without one
	out       map[*past]bool  // Sessions to which it went at once; true: their clients heard it
}

// past is a Session as its client knows it.
type past struct {
	who     string
	expiry  int
	conn    bool
	most    int // Receive Maximum; 0: any
	since   int // when the connection began
	hears   int // since when all that is sent to it is heard; notYet: it is not
	ended   bool
	endedAt int
	heard   int       // hears, when the Session ended; notYet: not, or the broker ended with it
	vague   bool      // it may be another one than it seems, or none
	endsAt  time.Time // zero: never
	late    bool      // or some time after that

	subs  map[string]*wish // as acknowledged
	all   []*wish
	got   map[string]int
	got2  map[string]int
	first map[string]int // of each line that has an order, the latest message seen

	will, pending *message // of the connection, and waiting
	willed        bool     // the latest connection had one
	delay         int
}

// wish is a subscription.
type wish struct {
	options
	filter       string
	id           uint32
	qos          mqtt.QoS
	from, to     int // when it may have been there
	since, until int // when it must have been, at QoS 1 or 2
	acked        int // when SUBACK came
	// Retained Messages may be owed to it, they must be.
	mayRetained, mustRetained bool
}

func newModel(l limit) *model {
	return &model{limit: l, messages: map[string]*message{}, counts: map[string]int{}}
}

func (m *model) fail(format string, args ...any) {
	panic(violated(m.at + ": " + fmt.Sprintf(format, args...)))
}

func (m *model) tick() int {
	m.clock++
	return m.clock
}

// calm says that the journal works again, and that all that waited is done.
func (m *model) calm() {
	m.trouble, m.crashing = false, false
	for _, x := range m.order {
		if x.troubled && x.acked == notYet {
			x.last = time.Now() // nothing is read from a client that waits for the journal
		}
	}
}

func (m *model) add(by string, q mqtt.QoS) *message {
	x := &message{key: fmt.Sprint(by, ".", m.counts[by]), by: by, qos: q, seq: len(m.order), sent: m.tick(), acked: notYet,
		first: time.Now(), last: time.Now(), troubled: m.trouble,
		seen: map[string]bool{}, shares: map[uint32]int{}, shares2: map[uint32]int{}, out: map[*past]bool{}}
	m.counts[by]++
	m.messages[x.key] = x
	m.order = append(m.order, x)
	return x
}

func (m *model) publish(by string, d deed) *message {
	x := m.add(by, d.qos)
	x.topic, x.bytes, x.expiry = d.name, d.bytes, time.Duration(d.expiry)*time.Second
	x.retain, x.empty = d.do == doRetain, d.bytes == 0
	if x.qos == mqtt.QoS0 && !m.trouble {
		x.acked = x.sent
	}
	return x
}

func (m *model) will(by string, q mqtt.QoS) *message {
	x := m.add(by, q)
	x.topic, x.isWill = "w/"+x.key, true
	return x
}

func (m *model) acknowledged(x *message) {
	if x.acked != notYet {
		return
	}
	x.acked = m.tick()
	if m.trouble {
		x.last = time.Now()
	}
	for _, s := range m.sessions {
		// A larger one may have to wait until the connection has taken what is before it.
		if s.conn && s.most == 0 && s.since < x.sent && !m.trouble && !x.troubled && x.bytes <= 1000 {
			x.out[s] = s.hears < x.sent
		}
	}
}

func keyOf(payload string) string {
	key, _, _ := strings.Cut(payload, " ")
	return key
}

// matches is section 4.7, as it is written.
func matches(filter, topic string) bool {
	if isShared(filter) {
		filter = strings.SplitN(filter, "/", 3)[2]
	}
	fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, f := range fs {
		if f == "#" {
			return true
		}
		if i >= len(ts) || f != "+" && f != ts[i] {
			return false
		}
	}
	return len(fs) == len(ts)
}

func newPast(who string) *past {
	return &past{who: who, hears: notYet, heard: notYet, subs: map[string]*wish{}, got: map[string]int{}, got2: map[string]int{}, first: map[string]int{}}
}

// gone says that the broker has ended. Of what was not on record keep may be.
func (m *model) gone(keep int) {
	m.crashing, m.goneAt = true, m.tick()
	for _, s := range m.sessions {
		if m.trouble && keep > 0 && !failedSendIsWhole {
			s.heard = notYet
		}
	}
	for _, x := range m.order {
		if m.limit == drops && !dropsSurviveCrash {
			clear(x.out)
		}
	}
}

// connected is a CONNACK.
func (m *model) connected(d *device, present bool) {
	s, now := d.session, time.Now()
	might, must := s.present(now, d.asked.clean)
	if present && !might || !present && must {
		m.fail("%s: session present=%v, want %v", d.name, present, must)
	}
	if s != nil && s.pending != nil {
		m.returned(s, present, now)
	}
	if !present {
		vague := false // what failed before may still be on disk after a crash
		if s != nil {
			vague = s.vague && d.asked.expiry == 0
			m.end(s)
		}
		s = newPast(d.name)
		s.vague = vague
		m.sessions = append(m.sessions, s)
		d.session = s
	}
	s.conn, s.most, s.expiry, s.endsAt, s.late = true, d.link.most, d.asked.expiry, time.Time{}, false
	s.since = m.tick()
	s.hears = s.since
	s.will, s.delay, s.willed = d.asksWill, d.asked.will, d.asksWill != nil
}

// present says whether a Session may and must be there.
func (s *past) present(now time.Time, clean bool) (might, must bool) {
	switch {
	case clean || s == nil:
		return false, false
	case s.vague:
		return true, false
	case s.ended:
		return false, false
	case s.endsAt.IsZero():
		return true, true
	case s.late:
		return true, now.Before(s.endsAt)
	}
	return now.Before(s.endsAt), now.Before(s.endsAt)
}

// returned says what becomes of a Will that waits when its client is back
// [MQTT-3.1.3-9].
func (m *model) returned(s *past, present bool, now time.Time) {
	w := s.pending
	s.pending = nil
	switch {
	case !present: // the Session has ended, and the Will is published
	case m.trouble || s.vague:
		w.must = false
	case now.Before(w.due):
		w.must, w.may = false, false
	}
}

func (m *model) end(s *past) {
	if s.ended {
		return
	}
	s.ended, s.endedAt = true, m.tick()
	if !m.crashing && (memberHasWill || !m.trouble || !s.willed) {
		s.heard = s.hears
	}
}

// lost is the end of a connection: said, if the client has sent DISCONNECT. With an
// expiry that is not negative, the DISCONNECT changes that of the Session.
func (m *model) lost(d *device, said bool, expiry int) {
	s, now := d.session, time.Now()
	s.conn = false
	shortest := s.expiry
	if expiry >= 0 {
		s.expiry = expiry
	}
	if shortest = min(shortest, s.expiry); !m.trouble { // then nobody may know of the DISCONNECT
		shortest = s.expiry
	}
	if s.expiry == 0 {
		m.end(s)
	}
	if shortest == 0 {
		s.vague = s.vague || expiry >= 0 && m.trouble
	} else if shortest < forever {
		s.endsAt, s.late = now.Add(time.Duration(shortest)*time.Second), m.trouble
	}
	s.hears = notYet
	w := s.will
	if s.will = nil; w == nil {
		return
	}
	w.sent = m.tick()
	if said {
		w.may = m.trouble // the broker may not have taken note of it
		return
	}
	w.may, w.must = true, true
	w.due = now.Add(time.Duration(min(s.delay, s.expiry)) * time.Second)
	s.pending = w
}

// unanswered is a CONNECT without an answer, or with that of a broker in trouble.
func (m *model) unanswered(d *device) {
	if d.session == nil {
		d.session = newPast(d.name)
		m.sessions = append(m.sessions, d.session)
	}
	s := d.session
	s.vague = true
	if s.pending != nil {
		s.pending.must = false
	}
	if d.asksWill != nil {
		d.asksWill.may = true
	}
}

// subscribe is a SUBSCRIBE, and returns what a SUBACK does.
func (m *model) subscribe(s *past, w *wish) func(mqtt.ReasonCode) {
	w.from, w.to, w.since, w.until, w.acked = m.tick(), notYet, notYet, notYet, notYet
	old := s.subs[w.filter]
	surely := old != nil && old.until == notYet
	maybe := slices.ContainsFunc(s.all, func(o *wish) bool { return o.filter == w.filter && o.to == notYet })
	if !isShared(w.filter) { // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
		w.mayRetained = w.handling == 0 || w.handling == 1 && !surely
		w.mustRetained = w.handling == 0 || w.handling == 1 && !maybe
	}
	s.all = append(s.all, w)
	if surely && (w.qos == 0 || w.noLocal && !old.noLocal) {
		old.until = w.from
	}
	return func(r mqtt.ReasonCode) {
		if r.Failed() {
			if !m.trouble {
				m.fail("%s: SUBACK %v", s.who, r)
			}
			return
		}
		w.acked = m.tick()
		if w.qos > 0 {
			w.since = w.acked
		}
		if old != nil {
			old.to = w.acked
			if old.until = min(old.until, w.acked); surely && w.qos > 0 && !old.noLocal {
				w.since = min(w.since, old.since)
			}
		}
		s.subs[w.filter] = w
	}
}

func (m *model) unsubscribe(s *past, filter string) func(mqtt.ReasonCode) {
	w := s.subs[filter]
	if w != nil {
		w.until = min(w.until, m.tick())
		if isShared(filter) {
			m.left = m.clock
		}
	}
	return func(r mqtt.ReasonCode) {
		if r.Failed() && !m.trouble {
			m.fail("%s: UNSUBACK %v", s.who, r)
		}
		if r == mqtt.Success && w != nil {
			w.to = m.tick()
			delete(s.subs, filter)
		}
	}
}

// received is a message that a client has got for the first time, as far as the
// standard lets it know.
func (m *model) received(s *past, key string, e event) {
	x := m.messages[key]
	if x == nil || x.topic != e.topic || e.qos > x.qos {
		m.fail("%s: %v, and no such message was published", s.who, e)
	}
	if x.isWill && !x.may {
		m.fail("%s got the will %s of %s, which must not be published", s.who, key, x.by)
	}
	if x.isWill && !m.trouble && !x.due.IsZero() && e.at.Before(x.due) && !m.over(x.by) {
		m.fail("%s got the will %s of %s before its time", s.who, key, x.by)
	}
	m.inTime(s, x, e)
	s.got[key]++
	x.seen[s.who] = true
	if e.qos == mqtt.QoS2 {
		s.got2[key]++
	}
	if x.topic == sharedTopic {
		m.sharedOnce(s, x, e)
	}
	if s.vague {
		return
	}
	m.mayHave(s, x, e)
	if x.topic != sharedTopic {
		m.inOrder(s, x, e)
	}
}

// inTime checks that the message has not expired, and says how long it still has
// [MQTT-3.3.2-5] [MQTT-3.3.2-6]. What was sent before may be repeated later.
func (m *model) inTime(s *past, x *message, e event) {
	if m.trouble {
		return
	}
	left := func(sent time.Time) int { // in seconds, rounded up
		return int(max(sent.Add(x.expiry).Sub(e.at)+time.Second-1, 0) / time.Second)
	}
	if x.expiry > 0 && e.v5 && (e.expiry < left(x.first) || e.expiry > left(x.last)) || x.expiry == 0 && e.expiry >= 0 {
		m.fail("%s got %s with Message Expiry Interval %d, want %d", s.who, x.key, e.expiry, left(x.last))
	}
	if e.dup {
		return
	}
	if x.expiry > 0 && e.at.Sub(x.last) >= x.expiry {
		m.fail("%s got %s, which has expired %v ago", s.who, x.key, e.at.Sub(x.last)-x.expiry)
	}
	if m.limit == aging && x.topic != sharedTopic && !x.isWill && !e.retain && e.at.Sub(x.last) >= queueAge*time.Second {
		m.fail("%s got %s, which has waited for %v", s.who, x.key, e.at.Sub(x.last))
	}
}

// sharedOnce checks that at QoS 2 each Shared Subscription gets the message once.
func (m *model) sharedOnce(s *past, x *message, e event) {
	if x.unnamed = x.unnamed || len(e.via) == 0; !x.unnamed {
		x.shares[e.via[0]]++
	}
	if e.qos < mqtt.QoS2 || s.got2[x.key] > 1 && s.vague || m.left > x.sent && !leaverGetsOnce {
		return
	}
	x.seen2++
	if len(e.via) > 0 {
		x.shares2[e.via[0]]++
	}
	most := len(m.sharesOf(x.topic))
	if !s.vague && (x.seen2 > most || len(e.via) > 0 && x.shares2[e.via[0]] > 1) {
		m.fail("%s got %s with QoS 2 by %v, which others have got: %d times in %d shared subscriptions", s.who, x.key, e.via, x.seen2, most)
	}
}

// inOrder checks that nothing comes twice at QoS 2, and that what comes for the first
// time comes in its order [MQTT-4.6.0-5].
func (m *model) inOrder(s *past, x *message, e event) {
	most := 1
	for _, w := range s.all {
		if m.mayRetained(x, w) {
			most++
		}
	}
	if s.got2[x.key] > most {
		m.fail("%s got %s with QoS 2 %d times", s.who, x.key, s.got2[x.key])
	}
	if s.got[x.key] > 1 || x.isWill || e.retain || x.resent && (!s.wanted(x) || x.troubled || m.outlived(x) || m.limit == drops) ||
		m.limit == drops && !dropsSurviveCrash && m.goneAt > x.sent {
		return // what is repeated may have been lost on the way before
	}
	line := fmt.Sprint(x.by, x.topic, x.qos, e.qos)
	if last, ok := s.first[line]; ok && last > x.seq {
		m.fail("%s got %s after %s", s.who, x.key, m.order[last].key)
	}
	s.first[line] = x.seq
}

// wanted reports whether the Session had a subscription for the message, at QoS 1 or
// 2, before it was first sent.
func (s *past) wanted(x *message) bool {
	for _, w := range s.subs {
		if w.since < x.sent && matches(w.filter, x.topic) {
			return true
		}
	}
	return false
}

// over reports whether a Session of the client has ended, which publishes its Will.
func (m *model) over(who string) bool {
	return slices.ContainsFunc(m.sessions, func(s *past) bool { return s.who == who && (s.ended || s.vague) })
}

// mayHave checks that subscriptions account for the message, its QoS and its RETAIN
// flag. A message by several that overlap is one, with the best of all of them.
func (m *model) mayHave(s *past, x *message, e event) {
	if e.v5 && len(e.via) == 0 && (leaverGetsIdentifier || x.topic != sharedTopic || m.left < x.sent) {
		m.fail("%s got %v without a Subscription Identifier", s.who, e)
	}
	var qos, flag bool
	for _, w := range s.all {
		if !matches(w.filter, x.topic) || len(e.via) > 0 && !slices.Contains(e.via, w.id) {
			continue
		}
		if e.retain && e.qos <= w.qos && m.mayRetained(x, w) {
			return
		}
		if !isShared(w.filter) && (w.from > x.acked || w.to < x.sent || w.noLocal && x.by == s.who) {
			continue
		}
		qos = qos || e.qos <= w.qos
		flag = flag || e.retain == (x.retain && w.asPublished) || x.troubled && !e.retain
	}
	if !qos || !flag {
		m.fail("%s got %v, and no subscription accounts for it", s.who, e)
	}
}

// mayRetained reports whether the message may have been a Retained Message when the
// subscription was made, and be sent because of that.
func (m *model) mayRetained(x *message, w *wish) bool {
	return w.mayRetained && x.retain && matches(w.filter, x.topic) && x.sent <= w.acked && !m.replaced(x, w.from)
}

// replaced reports whether another Retained Message had surely taken the place of
// the message by the given time.
func (m *model) replaced(x *message, by int) bool {
	return slices.ContainsFunc(m.order, func(y *message) bool {
		return y.topic == x.topic && y.retain && y.sent > x.acked && y.acked < by
	})
}

// sharesOf lists the Shared Subscriptions that there have been for the topic.
func (m *model) sharesOf(topic string) (filters []string) {
	for _, s := range m.sessions {
		for _, w := range s.all {
			if isShared(w.filter) && matches(w.filter, topic) && !slices.Contains(filters, w.filter) {
				filters = append(filters, w.filter)
			}
		}
	}
	return filters
}

// final checks that everybody has got what they must, once all have taken what
// waited for them.
func (m *model) final() {
	for _, x := range m.order {
		if x.qos == mqtt.QoS0 || x.empty || x.isWill && !x.must || !x.isWill && x.acked == notYet {
			continue
		}
		for _, s := range m.sessions {
			if s.ended || s.vague || s.got[x.key] > 0 || m.mayBeGone(x, s) {
				continue
			}
			if w := s.wish(x); w != nil {
				m.fail("%s has not got %s (%s of %s, QoS %d, will: %v), by %s", s.who, x.key, x.topic, x.by, x.qos, x.isWill, w.filter)
			}
		}
		if x.topic == sharedTopic {
			m.finalShared(x)
		}
	}
	for _, s := range m.sessions {
		if !s.ended && !s.vague {
			m.finalOwed(s)
		}
	}
}

// wish returns a subscription of the Session that surely wanted the message at QoS 1
// or 2, or nil. That it has ended since takes nothing away.
func (s *past) wish(x *message) *wish {
	for _, w := range s.all {
		if !isShared(w.filter) && matches(w.filter, x.topic) && w.since < x.sent &&
			(x.acked < w.until || w.until == notYet) && !(w.noLocal && x.by == s.who) {
			return w
		}
	}
	return nil
}

// mayBeGone reports whether the message may have been lost for the Session on the
// way because it has expired, or has been the oldest of a full queue.
func (m *model) mayBeGone(x *message, s *past) bool {
	heard, out := x.out[s]
	return !heard && m.outlived(x) || !out && m.crowded(x, s)
}

// outlived reports whether the message may have expired.
func (m *model) outlived(x *message) bool { return m.limit == aging || x.expired(time.Now()) }

// crowded reports whether the message may have been the oldest of a full queue.
func (m *model) crowded(x *message, s *past) bool {
	return m.limit == drops && m.behind(x, s) >= shortQueue
}

// expired reports whether the message may have expired by the time now.
func (x *message) expired(now time.Time) bool { return x.expiry > 0 && now.Sub(x.first) >= x.expiry }

// behind counts the messages for the Session that may have come after the message, as
// those of Shared Subscriptions do after a restart: they are given out anew.
func (m *model) behind(x *message, s *past) (n int) {
	for _, y := range m.order {
		if y == x || y.qos == 0 || y.acked <= x.sent && y.topic != sharedTopic ||
			!slices.ContainsFunc(s.all, func(w *wish) bool { return matches(w.filter, y.topic) }) {
			continue
		}
		if n++; y.resent {
			n++
		}
	}
	return n
}

// finalShared checks that each Shared Subscription with a lasting member has got the
// message.
func (m *model) finalShared(x *message) {
	for _, filter := range m.sharesOf(x.topic) {
		if who := m.owes(filter, x); who != "" && x.shares[filterID(filter)] == 0 && !x.unnamed {
			m.fail("nobody has got %s (QoS %d of %s) by %s, owed to %s", x.key, x.qos, x.by, filter, who)
		}
	}
}

// owes returns a member of the Shared Subscription to which the message is owed, be
// it that another one has got it; "": there is none. With QoS 2 it may have been under
// way to a member whose Session has ended [MQTT-4.8.2-5], unless that heard all that
// was sent to it. What waits at a member that has unsubscribed is still its own, but
// nobody has it any more if the member at which it waits ends after the last lasting
// one has left.
func (m *model) owes(filter string, x *message) (who string) {
	var ended, stayed bool
	for _, s := range m.sessions {
		for _, w := range s.all {
			if w.filter != filter {
				continue
			}
			if s.vague || m.outlived(x) || m.crowded(x, s) || s.ended && s.endedAt > x.sent && x.qos == mqtt.QoS2 && s.heard >= x.sent {
				return ""
			}
			ended = ended || s.ended && s.endedAt > x.sent
			if !s.ended && s.expiry > 0 && w.since < x.sent && x.acked < w.until {
				who = s.who
				stayed = stayed || s.subs[filter] == w && w.until == notYet
			}
		}
	}
	if ended && !stayed {
		return ""
	}
	return who
}

// finalOwed checks that new subscriptions have got the Retained Messages that have
// not been replaced since.
func (m *model) finalOwed(s *past) {
	for _, w := range s.subs {
		for _, x := range m.order {
			if !w.mustRetained || w.qos == 0 || w.until != notYet || x.qos == 0 || !x.retain || x.empty || x.acked >= w.from ||
				!matches(w.filter, x.topic) || s.got[x.key] > 0 || x.expired(time.Now()) {
				continue
			}
			if !slices.ContainsFunc(m.order, func(y *message) bool { return y != x && y.topic == x.topic && y.acked > x.sent }) {
				m.fail("%s has not got %s, retained for %s, by %s", s.who, x.key, x.topic, w.filter)
			}
		}
	}
}

// finalRetained checks what is retained: the latest acknowledged, or one that may
// have come after it, if it has not expired.
func (m *model) finalRetained(got map[string]string, topics []string) {
	for _, topic := range topics {
		allowed := map[string]bool{}
		known := false
		for _, x := range m.order {
			if x.topic != topic {
				continue
			}
			known = known || x.acked != notYet
			if m.replaced(x, notYet) {
				continue
			}
			allowed[x.key] = !x.empty && (x.expiry == 0 || time.Since(x.last) < x.expiry)
			allowed["nothing"] = allowed["nothing"] || x.empty || x.expired(time.Now())
		}
		key := got[topic]
		if key == "" {
			key = "nothing"
		}
		if !allowed[key] && (known || key != "nothing") {
			m.fail("retained for %s is %q, want one of %v", topic, key, allowed)
		}
	}
}
