package policy

import (
	"slices"
	"strings"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// Publication is a message as policies see it.
type Publication struct {
	Topic        string
	QoS          mqtt.QoS
	Retain       bool
	PayloadBytes int
}

// Subscription is a subscription as policies see it.
type Subscription struct {
	Filter topic.Filter
	QoS    mqtt.QoS
}

// Member is a principal with what the broker knows of it.
type Member struct {
	Principal  *Principal
	Connected  bool
	Subscribed []Subscription // of its session
	Published  []Publication  // lately
}

// Fleet is a Set applied to the members of a fleet, to ask what a thief of one of
// them could do to the others. What it answers errs on the side of the thief: two
// deny rules that only together cover what a rule allows are not put together. A
// Fleet keeps results for later questions: only one goroutine may use it at a
// time.
type Fleet struct {
	set      *Set
	members  []Member
	retained []string
	reaches  []memberReach

	// What members may do and have, by topic filter: where a thief's filters meet
	// them.
	writes, reads, owns, live meeting

	known map[string]*hits // results for wide filters, see (*Fleet).count
	union map[string]*hits
}

// memberReach is what the rights of a member mean.
type memberReach struct {
	writes, reads           []string // allowed topic filters
	writeDenies, readDenies []string
	own                     []string // what is allowed by rules with its own name in the filter
}

// NewFleet applies a Set to members. Retained are the topic names of the retained
// messages there are.
func NewFleet(s *Set, members []Member, retained []string) *Fleet {
	f := &Fleet{set: s, members: members, retained: retained, known: make(map[string]*hits), union: make(map[string]*hits)}
	for i, m := range members {
		r := reachOf(s.For(m.Principal))
		f.reaches = append(f.reaches, r)
		if m.Principal.Device != "" {
			for _, w := range r.writes {
				f.writes.insert(w, int32(i))
			}
			for _, w := range r.reads {
				f.reads.insert(w, int32(i))
			}
			for _, w := range r.own {
				f.owns.insert(w, int32(i))
			}
		}
		if m.Connected {
			for _, sub := range m.Subscribed {
				f.live.insert(sub.Filter.Pattern, int32(i))
			}
		}
	}
	return f
}

// reachOf lists what rights open.
func reachOf(r *Rights) (m memberReach) {
	switch r.reach {
	case reachAll:
		m.writes = []string{"#"}
		m.reads = []string{"#", "$SYS/#", "$fairlead/#"}
		return m
	case reachRead:
		m.reads = []string{"#", "$SYS/#", "$fairlead/#"}
		return m
	}
	var ownWrites, ownReads []string
	m.writes, m.writeDenies, ownWrites = r.filters(Publish)
	m.reads, m.readDenies, ownReads = r.filters(Subscribe)
	m.own = outermost(append(ownWrites, ownReads...))
	return m
}

// filters lists the topic filters that the rules of an action mean for the
// principal: what is allowed, without what lies within another or is denied as a
// whole, what is denied of it, and what is its own.
func (r *Rights) filters(a Action) (allowed, denied, own []string) {
	all := false
	r.expand(a, func(e expansion) bool {
		switch {
		case e.rule.deny:
			all = all || e.all
			denied = append(denied, e.filter)
		case a == Publish && brokers(e.filter): // it is the broker's, whatever allows it
		default:
			allowed = append(allowed, e.filter)
			if e.term.filter.uses(device) || e.term.filter.uses(client) || r.device.text == "" && e.term.filter.uses(user) {
				own = append(own, e.filter)
			}
		}
		return true
	})
	if all {
		return nil, nil, nil
	}
	denied = outermost(denied)
	allowed = slices.DeleteFunc(outermost(allowed), func(f string) bool { return covered(f, denied) })
	denied = slices.DeleteFunc(denied, func(d string) bool {
		return !slices.ContainsFunc(allowed, func(f string) bool { return topic.Overlap(f, d) })
	})
	return allowed, denied, own
}

// outermost drops the filters that lie within another, and sorts the others.
func outermost(filters []string) []string {
	slices.Sort(filters)
	filters = slices.Compact(filters)
	return slices.DeleteFunc(slices.Clone(filters), func(f string) bool {
		return slices.ContainsFunc(filters, func(o string) bool {
			// Of two that contain each other, such as "#" and "+/#", the first stays.
			return o != f && topic.Contains(o, f) && (!topic.Contains(f, o) || o < f)
		})
	})
}

// covered reports whether one of the outer filters contains the filter.
func covered(filter string, outer []string) bool {
	return slices.ContainsFunc(outer, func(o string) bool { return topic.Contains(o, filter) })
}

// common returns the topic filter that matches what both match; they overlap.
func common(a, b string) string {
	if topic.Contains(a, b) {
		return b
	}
	if topic.Contains(b, a) {
		return a
	}
	a, b = withParent(a), withParent(b)
	var levels []string
	for {
		levelA, restA, moreA := strings.Cut(a, "/")
		levelB, restB, moreB := strings.Cut(b, "/")
		switch {
		case levelA == "#":
			return strings.Join(append(levels, b), "/")
		case levelB == "#":
			return strings.Join(append(levels, a), "/")
		case levelA == "+":
			levels = append(levels, levelB)
		default:
			levels = append(levels, levelA)
		}
		if !moreA || !moreB { // one ends here, and so does the other, or in "/#"
			return strings.Join(levels, "/")
		}
		a, b = restA, restB
	}
}

// meeting is an index of topic filters that finds those which share a topic with
// another.
type meeting struct {
	words map[string]*meeting
	plus  *meeting
	here  []met
	below []met // of filters that end here in "/#"
}

// met is a filter of a member.
type met struct {
	filter string
	member int32
}

func (m *meeting) insert(filter string, member int32) {
	entry := met{filter, member}
	for rest, more := filter, true; more; {
		var word string
		word, rest, more = strings.Cut(rest, "/")
		if word == "#" {
			m.below = append(m.below, entry)
			return
		}
		m = m.child(word)
	}
	m.here = append(m.here, entry)
}

func (m *meeting) child(word string) *meeting {
	if word == "+" {
		if m.plus == nil {
			m.plus = &meeting{}
		}
		return m.plus
	}
	if m.words == nil {
		m.words = make(map[string]*meeting)
	}
	if m.words[word] == nil {
		m.words[word] = &meeting{}
	}
	return m.words[word]
}

// find yields the entries that overlap the filter, in no order. The walk is wider
// than the truth in corners such as '$', so it asks [topic.Overlap] last.
func (m *meeting) find(filter string, yield func(met)) {
	m.walk(withParent(filter), true, func(list []met) {
		for _, e := range list {
			if topic.Overlap(filter, e.filter) {
				yield(e)
			}
		}
	})
}

func (m *meeting) walk(rest string, more bool, take func([]met)) {
	take(m.below)
	if !more {
		take(m.here)
		return
	}
	word, rest, more := strings.Cut(rest, "/")
	switch word {
	case "#":
		take(m.here)
		for _, kid := range m.words {
			kid.walk("#", true, take)
		}
	case "+":
		for _, kid := range m.words {
			kid.walk(rest, more, take)
		}
	default:
		if kid := m.words[word]; kid != nil {
			kid.walk(rest, more, take)
		}
	}
	if m.plus != nil {
		if word == "#" {
			rest, more = "#", true
		}
		m.plus.walk(rest, more, take)
	}
}
