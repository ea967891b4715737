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
	at       string // the step
	clock    int    // grows with all that happens
	messages map[string]*message
	order    []*message
	sessions []*past
	trouble  bool // the journal fails or waits: answers may be missing
}

const notYet = math.MaxInt

// message is one Application Message.
type message struct {
	key, topic, by string
	qos            mqtt.QoS
	retain, empty  bool
	resent         bool // after a reconnect
	troubled       bool // the journal failed when it was sent: what was refused may come again, later
	seq            int
	sent, acked    int // by the model's clock

	isWill    bool
	may, must bool // it may be published, it must be
	due       time.Time
	seen2     int             // QoS 2 receptions over all sessions
	seen      map[string]bool // by client
}

// past is a Session as its client knows it.
type past struct {
	who     string
	expiry  int
	conn    bool
	ended   bool
	endedAt int
	vague   bool      // it may be another one than it seems, or none
	endsAt  time.Time // zero: never
	late    bool      // or some time after that

	subs  map[string]*wish // as acknowledged
	all   []*wish
	got   map[string]int
	got2  map[string]int
	first map[string]int // of each line that has an order, the latest message seen

	will, pending *message // of the connection, and waiting
	delay         int
}

// wish is a subscription.
type wish struct {
	filter   string
	qos      mqtt.QoS
	from, to int // when it may have been there
	since    int // since when it must be, at QoS 1 or 2
}

func newModel() *model { return &model{messages: map[string]*message{}} }

func (m *model) fail(format string, args ...any) {
	panic(violated(m.at + ": " + fmt.Sprintf(format, args...)))
}

func (m *model) tick() int {
	m.clock++
	return m.clock
}

// calm says that the journal works again, and that all that waited is done.
func (m *model) calm() { m.trouble = false }

func (m *model) add(by, topic string, q mqtt.QoS) *message {
	x := &message{key: fmt.Sprint("m", len(m.order)), topic: topic, by: by, qos: q, seq: len(m.order),
		sent: m.tick(), acked: notYet, troubled: m.trouble, seen: map[string]bool{}}
	m.messages[x.key] = x
	m.order = append(m.order, x)
	return x
}

func (m *model) publish(by, topic string, q mqtt.QoS, empty bool) *message {
	x := m.add(by, topic, q)
	x.empty = empty
	if q == mqtt.QoS0 && !m.trouble {
		x.acked = x.sent
	}
	return x
}

func (m *model) will(by string, q mqtt.QoS) *message {
	x := m.add(by, "", q)
	x.topic, x.isWill = "w/"+x.key, true
	return x
}

func (m *model) acknowledged(x *message) {
	if x.acked == notYet {
		x.acked = m.tick()
	}
}

func keyOf(payload string) string {
	key, _, _ := strings.Cut(payload, " ")
	return key
}

func (p *past) isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

func shareOf(filter string) (pattern string, shared bool) {
	if !strings.HasPrefix(filter, "$share/") {
		return filter, false
	}
	return strings.SplitN(filter, "/", 3)[2], true
}

// matches is section 4.7, as it is written.
func matches(filter, topic string) bool {
	filter, _ = shareOf(filter)
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
			vague = s.vague && d.asked.other == 0
			m.end(s)
		}
		s = &past{vague: vague, who: d.name, subs: map[string]*wish{}, got: map[string]int{}, got2: map[string]int{}, first: map[string]int{}}
		m.sessions = append(m.sessions, s)
		d.session = s
	}
	s.conn, s.expiry, s.endsAt, s.late = true, d.asked.other, time.Time{}, false
	s.will, s.delay = d.asksWill, d.asked.will
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
	if !s.ended {
		s.ended, s.endedAt = true, m.tick()
	}
}

// lost is the end of a connection: said, if the client has sent DISCONNECT.
func (m *model) lost(d *device, said bool) {
	s, now := d.session, time.Now()
	s.conn = false
	if s.expiry == 0 {
		m.end(s)
	} else if s.expiry < 100_000 {
		s.endsAt, s.late = now.Add(time.Duration(s.expiry)*time.Second), m.trouble
	}
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
		d.session = &past{who: d.name, subs: map[string]*wish{}, got: map[string]int{}, got2: map[string]int{}, first: map[string]int{}}
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
func (m *model) subscribe(s *past, filter string, q mqtt.QoS) func(mqtt.ReasonCode) {
	w := &wish{filter: filter, qos: q, from: m.tick(), to: notYet, since: notYet}
	s.all = append(s.all, w)
	old := s.subs[filter]
	if old != nil && q == 0 {
		old.since = notYet
	}
	return func(r mqtt.ReasonCode) {
		if r.Failed() {
			if !m.trouble {
				m.fail("%s: SUBACK %v", s.who, r)
			}
			return
		}
		if q > 0 {
			w.since = m.tick()
		}
		if old != nil {
			old.to = m.tick()
			if q > 0 {
				w.since = min(w.since, old.since)
			}
		}
		s.subs[filter] = w
	}
}

func (m *model) unsubscribe(s *past, filter string) func(mqtt.ReasonCode) {
	w := s.subs[filter]
	if w != nil {
		w.since = notYet
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
	if x.isWill && !m.trouble && !x.due.IsZero() && time.Now().Before(x.due) && !m.over(x.by) {
		m.fail("%s got the will %s of %s before its time", s.who, key, x.by)
	}
	s.got[key]++
	x.seen[s.who] = true
	if e.qos == mqtt.QoS2 {
		s.got2[key]++
		x.seen2++
	}
	if s.vague {
		return
	}
	m.mayHave(s, x, e)
	if x.topic == sharedTopic {
		if most := m.shares(x.topic); x.seen2 > most {
			m.fail("%s got %s with QoS 2, which others have got: %d times in %d shared subscriptions", s.who, key, x.seen2, most)
		}
		return
	}
	if s.got2[key] > 1 {
		m.fail("%s got %s with QoS 2 for the second time", s.who, key)
	}
	if s.got[key] == 1 && !x.isWill && (!x.resent || s.wanted(x) && !x.troubled) { // [MQTT-4.6.0-5]
		line := fmt.Sprint(x.by, x.topic, x.qos, e.qos)
		if last, ok := s.first[line]; ok && last > x.seq {
			m.fail("%s got %s after m%d", s.who, key, last)
		}
		s.first[line] = x.seq
	}
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

// mayHave checks that some subscription accounts for the message.
func (m *model) mayHave(s *past, x *message, e event) {
	for _, w := range s.all {
		if matches(w.filter, x.topic) && e.qos <= w.qos && (s.isShared(w.filter) || w.from <= x.acked && w.to >= x.sent) {
			return
		}
	}
	m.fail("%s got %v, and no subscription accounts for it", s.who, e)
}

// shares is how many Shared Subscriptions there have been for the topic.
func (m *model) shares(topic string) int {
	seen := map[string]bool{}
	for _, s := range m.sessions {
		for _, w := range s.all {
			if s.isShared(w.filter) && matches(w.filter, topic) {
				seen[w.filter] = true
			}
		}
	}
	return len(seen)
}

// final checks that everybody has got what they must, once all have taken what
// waited for them.
func (m *model) final() {
	for _, x := range m.order {
		if x.qos == mqtt.QoS0 || x.empty || x.isWill && !x.must || !x.isWill && x.acked == notYet {
			continue
		}
		for _, s := range m.sessions {
			if s.ended || s.vague || s.got[x.key] > 0 {
				continue
			}
			for _, w := range s.subs {
				if !s.isShared(w.filter) && matches(w.filter, x.topic) && w.since < x.sent {
					m.fail("%s has not got %s (%s of %s, QoS %d, will: %v), by %s", s.who, x.key, x.topic, x.by, x.qos, x.isWill, w.filter)
				}
			}
		}
		if x.topic == sharedTopic && len(x.seen) == 0 {
			m.finalShared(x)
		}
	}
}

// finalShared checks a message that nobody has got: each Shared Subscription with a
// lasting member would owe it, unless it was under way to one whose Session ended
// [MQTT-4.8.2-5].
func (m *model) finalShared(x *message) {
	lasting := ""
	for _, s := range m.sessions {
		for _, w := range s.all {
			if !s.isShared(w.filter) || !matches(w.filter, x.topic) {
				continue
			}
			if s.vague || s.ended && s.endedAt > x.sent && x.qos == mqtt.QoS2 {
				return
			}
			if !s.ended && s.expiry > 0 && w.since < x.sent && s.subs[w.filter] == w {
				lasting = s.who + " by " + w.filter
			}
		}
	}
	if lasting != "" {
		m.fail("nobody has got %s (QoS %d of %s), owed to %s", x.key, x.qos, x.by, lasting)
	}
}

// finalRetained checks what is retained: the latest acknowledged, or one that may
// have come after it.
func (m *model) finalRetained(got map[string]string, topics []string) {
	for _, topic := range topics {
		key, ok := got[topic], false
		var allowed []string
		certain := func(after int) bool {
			return slices.ContainsFunc(m.order, func(y *message) bool {
				return y.topic == topic && y.acked != notYet && y.sent > after
			})
		}
		if !certain(0) {
			allowed, ok = append(allowed, "nothing"), key == ""
		}
		for _, x := range m.order {
			if x.topic != topic || certain(x.acked) {
				continue
			}
			if allowed = append(allowed, x.key); x.key == key || x.empty && key == "" {
				ok = true
			}
		}
		if !ok {
			m.fail("retained for %s is %q, want one of %v (of which an empty one is none)", topic, key, allowed)
		}
	}
}
