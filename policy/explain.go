package policy

import (
	"fmt"
	"strings"

	"fairlead/document"
	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// Explanation is an answer with its reason, for operators. The verdict is the one
// that the question without Explain gives.
type Explanation struct {
	Verdict  Verdict
	Policy   string         // of the deciding rule; "" if no rule decided
	Rule     string         // "allow publish devices/{device}/#"
	Place    document.Place // of the rule
	Sentence string         // the answer and its reason, with policy and place
}

// String returns the sentence.
func (e Explanation) String() string { return e.Sentence }

// ExplainConnect explains [Rights.Connect].
func (r *Rights) ExplainConnect(id mqtt.ClientID, reserved bool) Explanation {
	act := fmt.Sprintf("connect with the client id %q", id)
	if e, ok := r.explainReach(act, r.reach != reachNothing, noConnect); ok {
		return e
	}
	if r.guards(id, reserved) {
		return refused(noConnect, act, fmt.Sprintf("this client id belongs to the device %q", NameOf(string(id))))
	}
	var allowing *term
	for _, i := range r.policies {
		for _, rule := range r.set.policies[i].rules {
			for _, t := range rule.terms {
				if t.action != Connect || !r.names(&t.filter, string(id), rule.deny) {
					continue
				}
				if rule.deny {
					return t.decided(noConnect, act, "")
				}
				if allowing == nil {
					allowing = t
				}
			}
		}
	}
	if allowing != nil {
		return allowing.decided(Verdict{}, act, "")
	}
	return r.nothingAllows(Connect, act, noConnect)
}

// ExplainPublish explains [Rights.Publish].
func (r *Rights) ExplainPublish(name string, qos mqtt.QoS, retain bool, payloadBytes int) Explanation {
	act := fmt.Sprintf("publish to %q", name)
	if brokers(name) {
		return refused(noOwn, act, "only the broker publishes to $SYS and $fairlead topics")
	}
	if e, ok := r.explainReach(act, r.reach == reachAll, noPublish); ok {
		return e
	}
	return r.explainTopic(Publish, name, act, noPublish, request{byte(qos), retain, payloadBytes})
}

// ExplainSubscribe explains [Rights.Subscribe].
func (r *Rights) ExplainSubscribe(f topic.Filter, qos mqtt.QoS) Explanation {
	act := fmt.Sprintf("subscribe to %q", f.String())
	if e, ok := r.explainReach(act, r.reach != reachNothing, noSubscribe); ok {
		return e
	}
	return r.explainTopic(Subscribe, f.Pattern, act, noSubscribe, request{qos: byte(qos)})
}

// ExplainReceive explains [Rights.Receive].
func (r *Rights) ExplainReceive(name string) Explanation {
	act := fmt.Sprintf("receive messages of %q", name)
	if e, ok := r.explainReach(act, r.reach != reachNothing, noSubscribe); ok {
		return e
	}
	return r.explainTopic(Subscribe, name, act, noSubscribe, request{})
}

// explainReach explains what a method decides without any policy.
func (r *Rights) explainReach(act string, yes bool, no Verdict) (Explanation, bool) {
	switch {
	case r.reach == reachPolicies:
		return Explanation{}, false
	case r.reach == reachAll:
		return Explanation{Sentence: "allowed to " + act + ": an operator and whoever comes by an open listener may do everything but publish to the broker's own topics"}, true
	case yes:
		return Explanation{Sentence: "allowed to " + act + ": a viewer may read everything"}, true
	case r.reach == reachRead:
		return refused(no, act, "a viewer may read only"), true
	}
	return refused(no, act, fmt.Sprintf("this operator has none of the roles %s, %s and %s", RoleViewer, RoleOperator, RoleAdmin)), true
}

// explainTopic tries all rules in their order.
func (r *Rights) explainTopic(a Action, pattern, act string, no Verdict, ask request) Explanation {
	var near, denying *expansion
	nearest := onTopic
	r.expand(a, func(e expansion) bool {
		if e.rule.deny {
			if e.overlaps(pattern) {
				denying = &e
			}
			return denying == nil // deny wins, whatever allows
		}
		if nearest != granted && e.contains(pattern) {
			if s := e.rule.grants(ask); near == nil || s > nearest {
				near, nearest = &e, s
			}
		}
		return true
	})
	switch {
	case denying != nil:
		return denying.decided(no, act, denying.filterNote(pattern))
	case near != nil && nearest == granted:
		return near.decided(Verdict{}, act, near.filterNote(pattern))
	case near != nil:
		return near.tooMuch(nearest, act, ask)
	}
	return r.nothingAllows(a, act, no)
}

// filterNote says what a rule with variables means for the principal.
func (e *expansion) filterNote(pattern string) string {
	switch {
	case e.all:
		return ", which has no usable value for a variable here and so denies everything"
	case e.widened:
		return fmt.Sprintf(", which has no usable value for a variable here and so denies all of %s", e.filter)
	case e.filter != e.term.filter.text:
		return fmt.Sprintf(", which is %s here", e.filter)
	case e.rule.deny && e.filter != pattern:
		return ", which has topics in common with it"
	}
	return ""
}

// tooMuch explains a refusal by the conditions of the nearest allow rule.
func (e *expansion) tooMuch(s stage, act string, ask request) Explanation {
	switch s {
	case onQoS:
		return e.decided(noQoS, act, fmt.Sprintf(", but with QoS %d at most, and this is QoS %d", e.rule.maxQoS, ask.qos))
	case onRetain:
		return e.decided(noRetain, act, ", but no retained messages")
	}
	return e.decided(noPayload, act, fmt.Sprintf(", but payloads of %d bytes at most, and this one has %d", e.rule.payloadBytes, ask.payloadBytes))
}

// decided is the explanation of a verdict by a rule. The note goes on after the
// rule.
func (t *term) decided(v Verdict, act, note string) Explanation {
	answer := "allowed to "
	if !v.Allowed() {
		answer = "refused to "
	}
	return Explanation{
		Verdict: v, Policy: t.rule.policy.name, Rule: t.String(), Place: t.at,
		Sentence: fmt.Sprintf("%s%s: policy %q (%v) says %s%s", answer, act, t.rule.policy.name, t.at, t, note),
	}
}

// namesMax is how many policies an explanation lists.
const namesMax = 10

// nothingAllows is the explanation of the default.
func (r *Rights) nothingAllows(a Action, act string, no Verdict) Explanation {
	var names []string
	for _, i := range r.policies[:min(len(r.policies), namesMax)] {
		names = append(names, fmt.Sprintf("%q", r.set.policies[i].name))
	}
	if more := len(r.policies) - namesMax; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	if len(names) == 0 {
		return refused(no, act, "no policy is for this principal, and what nothing allows is refused")
	}
	what := "allows it"
	if a == Subscribe {
		what = "allows all of it"
	}
	return refused(no, act, fmt.Sprintf("no single rule of the policies that are for it (%s) %s", strings.Join(names, ", "), what))
}

func refused(v Verdict, act, why string) Explanation {
	return Explanation{Verdict: v, Sentence: "refused to " + act + ": " + why}
}
