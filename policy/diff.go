package policy

import (
	"fmt"
	"slices"

	"fairlead/mqtt/topic"
)

// Change is what one member gains and loses by a new Set.
type Change struct {
	Member       int // its index
	Lost, Gained []Difference
	// Limits are the old and the new ones. They are equal if they do not change.
	Limits [2]Limits
}

// Difference is one thing that a member may do by one Set and not by another.
type Difference struct {
	Action Action
	Topic  string // a topic name, topic filter or client id
	// Used is true for what the member has or did: a subscription of its session, a
	// topic that it published to, the Client Identifier of its connection.
	Used bool
	Why  string // the sentence of the Set that refuses it; "" if it isn't used
}

// Diff compares two Sets: who gains and who loses what, in the order of members.
// Members that notice nothing are left out.
func Diff(before, after *Set, members []Member) []Change {
	devices := make(map[string]bool)
	for _, m := range members {
		devices[m.Principal.Device] = m.Principal.Device != ""
	}
	var changes []Change
	for i, m := range members {
		b, a := before.For(m.Principal), after.For(m.Principal)
		if b.Same(a) {
			continue
		}
		c := Change{Member: i, Limits: [2]Limits{b.Limits(), a.Limits()}}
		c.used(b, a, &m, devices[NameOf(string(m.Principal.Client))])
		c.rules(b, a, Publish)
		c.rules(b, a, Subscribe)
		if c.Lost != nil || c.Gained != nil || c.Limits[0] != c.Limits[1] {
			changes = append(changes, c)
		}
	}
	return changes
}

// used compares the answers to what the member has and did.
func (c *Change) used(b, a *Rights, m *Member, reserved bool) {
	if id := m.Principal.Client; id != "" {
		c.answer(Connect, string(id), b.ExplainConnect(id, reserved), a.ExplainConnect(id, reserved))
	}
	for _, p := range m.Published {
		c.answer(Publish, p.Topic, b.ExplainPublish(p.Topic, p.QoS, p.Retain, p.PayloadBytes), a.ExplainPublish(p.Topic, p.QoS, p.Retain, p.PayloadBytes))
	}
	for _, s := range m.Subscribed {
		c.answer(Subscribe, s.Filter.String(), b.ExplainSubscribe(s.Filter, s.QoS), a.ExplainSubscribe(s.Filter, s.QoS))
	}
}

func (c *Change) answer(action Action, what string, b, a Explanation) {
	switch had, has := b.Verdict.Allowed(), a.Verdict.Allowed(); {
	case had && !has:
		c.Lost = append(c.Lost, Difference{action, what, true, a.Sentence})
	case !had && has:
		c.Gained = append(c.Gained, Difference{action, what, true, b.Sentence})
	}
}

// rules compares what the rules open, whether anybody uses it or not.
func (c *Change) rules(b, a *Rights, action Action) {
	bAllowed, bDenied := openings(b, action)
	aAllowed, aDenied := openings(a, action)
	c.Gained = append(c.Gained, beyond(action, aAllowed, bAllowed, bDenied, aDenied)...)
	c.Lost = append(c.Lost, beyond(action, bAllowed, aAllowed, aDenied, bDenied)...)
}

// openings are the filters of an action.
func openings(r *Rights, action Action) (allowed, denied []string) {
	m := reachOf(r)
	if action == Publish {
		return m.writes, m.writeDenies
	}
	return m.reads, m.readDenies
}

// beyond lists what is open on one side and not on the other: filters that no
// filter there contains, and what is denied there and not here.
func beyond(action Action, here, there, deniedThere, deniedHere []string) (found []Difference) {
	add := func(filter string) {
		if !slices.ContainsFunc(found, func(d Difference) bool { return d.Topic == filter }) {
			found = append(found, Difference{Action: action, Topic: filter})
		}
	}
	for _, filter := range here {
		if !covered(filter, there) {
			add(filter)
		}
		for _, denied := range deniedThere {
			if !topic.Overlap(filter, denied) {
				continue
			}
			if shared := common(filter, denied); !covered(shared, deniedHere) {
				add(shared)
			}
		}
	}
	return found
}

// String returns the difference in a line: "publish a/b".
func (d Difference) String() string {
	if d.Why == "" {
		return fmt.Sprintf("%v %s", d.Action, d.Topic)
	}
	return fmt.Sprintf("%v %s (%s)", d.Action, d.Topic, d.Why)
}
