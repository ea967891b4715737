package policy

import (
	"slices"
	"strings"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// Rights are what one principal may do. They do not change. They cost a few
// hundred bytes: the rules are the Set's, which must not be kept for longer than
// its rights are of use.
type Rights struct {
	set      *Set
	policies []int32 // those for the principal, sorted; indexes in the Set
	denies   [actions]bool
	reach    reach
	own      string // the device's own topics: "devices/NAME"; "" if it has none

	device, user, client value
	groups               []value
	attrs                []attrValue // those that rules use, by index in the Set

	limits Limits
}

type attrValue struct {
	index int32
	value
}

// reach is what a method opens without any policy.
type reach byte

const (
	reachPolicies reach = iota // what the policies allow
	reachNothing               // an operator without a role
	reachRead                  // all, to read
	reachAll                   // all but what the broker owns
)

// What a client may read. It names no rule.
var (
	noConnect   = Verdict{Code: mqtt.NotAuthorized, Reason: "this client id is not granted"}
	noPublish   = Verdict{Code: mqtt.NotAuthorized, Reason: "this topic is not granted"}
	noOwn       = Verdict{Code: mqtt.NotAuthorized, Reason: "$SYS and $fairlead topics are the broker's own"}
	noQoS       = Verdict{Code: mqtt.NotAuthorized, Reason: "this QoS is not granted here: try a lower one"}
	noRetain    = Verdict{Code: mqtt.NotAuthorized, Reason: "retained messages are not granted here"}
	noPayload   = Verdict{Code: mqtt.QuotaExceeded, Reason: "the payload is larger than what is granted here"}
	noSubscribe = Verdict{Code: mqtt.NotAuthorized, Reason: "this topic filter is not granted as a whole"}
)

// Limits returns what bounds the principal: of each limit, the strictest of all
// policies that are for it.
func (r *Rights) Limits() Limits { return r.limits }

// Connect says whether the principal may use a Client Identifier. Reserved says
// whether it is one of a registered device, see [NameOf]; while the built-in
// policies are on, such a Client Identifier is refused to all but that device.
func (r *Rights) Connect(id mqtt.ClientID, reserved bool) Verdict {
	if r.reach != reachPolicies {
		return allowIf(r.reach != reachNothing, noConnect)
	}
	if r.guards(id, reserved) {
		return noConnect
	}
	allowed := false
	for _, i := range r.policies {
		for _, rule := range r.set.policies[i].rules {
			for _, t := range rule.terms {
				if t.action != Connect || !r.names(&t.filter, string(id), rule.deny) {
					continue
				}
				if rule.deny {
					return noConnect
				}
				allowed = true
			}
		}
	}
	return allowIf(allowed, noConnect)
}

// guards reports whether a Client Identifier belongs to another device.
func (r *Rights) guards(id mqtt.ClientID, reserved bool) bool {
	return r.set.builtin && reserved && (r.device.text == "" || NameOf(string(id)) != r.device.text)
}

// Publish says whether the principal may publish such a message to a topic name.
// It does not allocate.
func (r *Rights) Publish(name string, qos mqtt.QoS, retain bool, payloadBytes int) Verdict {
	if brokers(name) {
		return noOwn
	}
	if r.reach != reachPolicies {
		return allowIf(r.reach == reachAll, noPublish)
	}
	if r.denied(Publish, name) {
		return noPublish
	}
	if r.owns(name) {
		return Verdict{}
	}
	switch r.allowed(Publish, name, request{byte(qos), retain, payloadBytes}) {
	case granted:
		return Verdict{}
	case onQoS:
		return noQoS
	case onRetain:
		return noRetain
	case onPayload:
		return noPayload
	}
	return noPublish
}

// Subscribe says whether the principal may have a subscription: one rule has to
// contain the whole topic filter and grant the QoS, and no deny rule may share a
// topic with it. A ShareName plays no part. It does not allocate.
func (r *Rights) Subscribe(f topic.Filter, qos mqtt.QoS) Verdict {
	if r.reach != reachPolicies {
		return allowIf(r.reach != reachNothing, noSubscribe)
	}
	if r.denied(Subscribe, f.Pattern) {
		return noSubscribe
	}
	if r.owns(f.Pattern) {
		return Verdict{}
	}
	switch r.allowed(Subscribe, f.Pattern, request{qos: byte(qos)}) {
	case granted:
		return Verdict{}
	case onQoS:
		return noQoS
	}
	return noSubscribe
}

// Receive says whether the principal may see a message of a topic name: whether it
// could subscribe to it. It is for messages that wait in a queue while rights
// shrink. It does not allocate.
func (r *Rights) Receive(name string) bool {
	if r.reach != reachPolicies {
		return r.reach != reachNothing
	}
	return !r.denied(Subscribe, name) && (r.owns(name) || r.allowed(Subscribe, name, request{}) == granted)
}

// denied asks the deny rules.
func (r *Rights) denied(a Action, pattern string) bool {
	if !r.denies[a] {
		return false
	}
	w := walk{rights: r, system: strings.HasPrefix(pattern, "$"), group: -1}
	return r.set.deny[a].overlaps(&w, withParent(pattern), true, true)
}

// allowed asks the allow rules.
func (r *Rights) allowed(a Action, pattern string, ask request) stage {
	w := walk{rights: r, ask: ask, system: strings.HasPrefix(pattern, "$"), group: -1}
	if r.set.allow[a].contains(&w, withParent(pattern), true, true) {
		return granted
	}
	return w.stage
}

// owns reports whether a topic name or filter lies within the device's own topics.
// It is a short cut through the built-in rules.
func (r *Rights) owns(pattern string) bool {
	return r.own != "" && strings.HasPrefix(pattern, r.own) && (len(pattern) == len(r.own) || pattern[len(r.own)] == '/')
}

// brokers reports whether a topic is one that only the broker publishes to.
func brokers(name string) bool {
	if !strings.HasPrefix(name, "$") {
		return false
	}
	first, _, _ := strings.Cut(name, "/")
	return first == "$SYS" || first == "$fairlead"
}

func allowIf(yes bool, no Verdict) Verdict {
	if yes {
		return Verdict{}
	}
	return no
}

// names reports whether a pattern of client ids fits a client id. A deny rule whose
// variable has no usable value fits them all.
func (r *Rights) names(t *template, id string, deny bool) bool {
	parts := t.levels[0].parts
	if !t.uses(group) {
		return r.fits(parts, t.below, id, -1, deny)
	}
	for g := range r.groups {
		if r.fits(parts, t.below, id, g, deny) {
			return true
		}
	}
	return false
}

func (r *Rights) fits(parts []part, star bool, id string, group int, deny bool) bool {
	if r.state(parts, group, false) != usable {
		return deny
	}
	rest, ok := r.cut(parts, id, group)
	return ok && (star || rest == "")
}

// valueOf returns what a variable stands for; group is the index of the group.
func (r *Rights) valueOf(v variable, group int) value {
	switch v.kind {
	case device:
		return r.device
	case user:
		return r.user
	case client:
		return r.client
	case attribute:
		for _, a := range r.attrs {
			if r.set.attrs[a.index] == v.attr {
				return a.value
			}
		}
		return value{state: missing}
	}
	return r.groups[group]
}

// state returns the worst state of the variables of a level. In the first level a
// value must not begin the filter with '$' either: such topics are for those who
// write the '$' into their rules.
func (r *Rights) state(parts []part, group int, first bool) state {
	worst := usable
	for i, p := range parts {
		if p.kind == none {
			continue
		}
		v := r.valueOf(p.variable, group)
		if first && i == 0 && strings.HasPrefix(v.text, "$") {
			return unusable
		}
		worst = max(worst, v.state)
	}
	return worst
}

// equal reports whether a level with its values is the word.
func (r *Rights) equal(parts []part, word string, group int) bool {
	rest, ok := r.cut(parts, word, group)
	return ok && rest == ""
}

// cut cuts the parts with their values off the front of s.
func (r *Rights) cut(parts []part, s string, group int) (rest string, ok bool) {
	for _, p := range parts {
		text := p.text
		if p.kind != none {
			text = r.valueOf(p.variable, group).text
		}
		if s, ok = strings.CutPrefix(s, text); !ok {
			return "", false
		}
	}
	return s, true
}

// Same reports whether both rights surely answer every question alike, so that a
// principal with unchanged rights need not be asked again. Two rights that grant
// the same in other words are not the same.
func (r *Rights) Same(o *Rights) bool {
	if r.reach != o.reach || r.reach == reachPolicies && (r.set.builtin != o.set.builtin || r.limits != o.limits ||
		r.device != o.device || r.user != o.user || r.client != o.client || !slices.Equal(r.groups, o.groups) ||
		len(r.policies) != len(o.policies) || len(r.attrs) != len(o.attrs)) {
		return false
	}
	for i, a := range r.attrs {
		if b := o.attrs[i]; a.value != b.value || r.set.attrs[a.index] != o.set.attrs[b.index] {
			return false
		}
	}
	for i, p := range r.policies {
		if r.set.policies[p].digest != o.set.policies[o.policies[i]].digest {
			return false
		}
	}
	return true
}
