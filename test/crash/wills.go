package crash

import (
	"time"

	"fairlead/mqtt"
)

// will is the Will Message of one connection.
type will struct {
	client  *client
	conn    *conn
	message *message
	delay   uint32 // seconds
}

// fate is what must become of a will.
type fate int

const (
	either fate = iota
	never
	once // at QoS 1: at least once
)

// judgeWills holds what became of each will against what the standard says
// (3.1.2.5 and 3.1.3.2.2): published when the connection is lost without a
// DISCONNECT and the delay has passed or the session has ended, and never when
// the client was back before.
func (m *model) judgeWills() {
	for _, w := range m.wills {
		fate, due := m.fate(w)
		for _, s := range m.sessions {
			m.judgeWill(w, s, fate, due)
		}
	}
}

func (m *model) judgeWill(w *will, s *session, fate fate, due time.Duration) {
	r := s.got[w.message]
	marks := []mark{w.conn.connect, w.conn.acked, w.conn.disconnect, w.conn.end}
	if r == nil {
		if fate == once && m.alive(s) && m.wants(s, w.message) {
			m.miss(faultWill, s.client.name, marks, "will %q of %s was not published, and the connection was lost", w.message.name, w.client.name)
		}
		return
	}
	m.totals.Wills++
	marks = append(marks, r.first)
	switch {
	case fate == never && w.conn.end == 0:
		m.fail(faultWill, s.client.name, marks, "will %q of %s was published, and the connection stands", w.message.name, w.client.name)
	case fate == never:
		m.fail(faultWill, s.client.name, marks, "will %q of %s was published without cause: %s", w.message.name, w.client.name, w.why())
	case m.when(r.first) < due || r.first < w.conn.end:
		m.fail(faultWill, s.client.name, marks, "will %q of %s was published before it was due", w.message.name, w.client.name)
	}
}

func (w *will) why() string {
	if w.conn.disconnect > 0 {
		return "a DISCONNECT was sent"
	}
	return "the client was back before the delay had passed"
}

// fate says what must become of the will, and when it may be published at the
// earliest.
func (m *model) fate(w *will) (fate, time.Duration) {
	k := w.conn
	switch {
	case k.end == 0:
		return never, 0
	case k.acked == 0:
		return either, 0
	case k.disconnect > 0 && m.event(k.disconnect).code == mqtt.Success:
		at := m.when(k.disconnect)
		if m.killedWithin(at-unsure, at+unsure) {
			return either, 0
		}
		return never, 0
	}
	delay := time.Duration(min(w.delay, k.fields.expiry)) * time.Second
	if w.delay > 0 && k.disconnect > 0 && m.event(k.disconnect).expiry != nil {
		return either, 0
	}
	if delay == 0 {
		return once, m.when(k.end)
	}
	return m.fateDelayed(w, delay)
}

// fateDelayed follows what the client did after the connection was lost.
func (m *model) fateDelayed(w *will, delay time.Duration) (fate, time.Duration) {
	earliest := m.when(w.conn.end) + delay
	doubt := false
	for _, k := range w.client.conns {
		if k.opened <= w.conn.opened || k.connect == 0 {
			continue
		}
		latest := max(w.conn.last, m.restartBefore(k.connect)) + delay + late
		switch {
		case m.when(k.connect) > latest:
			return undoubted(once, doubt), earliest
		case k.fields.clean:
			return undoubted(once, doubt), min(earliest, m.when(k.connect)) // the session ends
		case k.acked == 0:
			doubt = true
		case m.when(k.acked) < earliest:
			return never, 0
		default:
			return either, earliest
		}
	}
	return undoubted(once, doubt), earliest
}

func (m *model) restartBefore(at mark) time.Duration {
	if r := lastBefore(m.readies, at); r > 0 {
		return m.when(r)
	}
	return 0
}

func undoubted(f fate, doubt bool) fate {
	if doubt {
		return either
	}
	return f
}
