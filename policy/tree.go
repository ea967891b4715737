package policy

import (
	"cmp"
	"slices"
	"strings"
)

// node is a node of a tree of topic filters with variables. A tree holds the
// terms of all policies for one action, allowed or denied; a walk through it takes
// only what is for its principal. So a principal costs no more than its values,
// however many rules there are.
type node struct {
	words     map[string]*node // below levels without variables
	variables []*edge
	plus      *node // below '+'
	here      []grant
	below     []grant // of filters that end here in "/#"
}

// edge leads to what is below a level with variables.
type edge struct {
	parts   []part
	grouped bool // {group} is among them
	to      *node
}

// grant is a term at a node. The grants of a node are ordered by policy.
type grant struct {
	policy int32 // index in the Set
	term   *term
}

// insert puts a term into the tree.
func (n *node) insert(policy int, t *term) {
	for i := range t.filter.levels {
		n = n.child(&t.filter.levels[i])
	}
	if t.filter.below {
		n.below = append(n.below, grant{int32(policy), t})
	} else {
		n.here = append(n.here, grant{int32(policy), t})
	}
}

// child returns the node below a level, made if need be.
func (n *node) child(l *level) *node {
	word, plain := l.plain()
	if !plain {
		return n.edge(l).to
	}
	if word == "+" {
		if n.plus == nil {
			n.plus = &node{}
		}
		return n.plus
	}
	if n.words == nil {
		n.words = make(map[string]*node)
	}
	if n.words[word] == nil {
		n.words[word] = &node{}
	}
	return n.words[word]
}

func (n *node) edge(l *level) *edge {
	for _, e := range n.variables {
		if slices.Equal(e.parts, l.parts) {
			return e
		}
	}
	e := &edge{parts: l.parts, to: &node{}}
	e.grouped = slices.ContainsFunc(l.parts, func(p part) bool { return p.kind == group })
	n.variables = append(n.variables, e)
	return e
}

// walk is one question to a tree.
type walk struct {
	rights *Rights
	ask    request
	system bool // the topic begins with '$': wildcards in the first level don't see it
	group  int  // which group {group} stands for so far; -1: none yet
	// stage is how near the nearest rule that lies on the way comes to granting
	// the request; see (*rule).grants.
	stage stage
}

// request is what a rule that allows a topic has to grant as well.
type request struct {
	qos          byte
	retain       bool
	payloadBytes int
}

// stage is the first condition that a rule doesn't grant.
type stage byte

const (
	onTopic stage = iota
	onQoS
	onRetain
	onPayload
	granted
)

// grants says whether an allow rule grants a request, or where it stops.
func (r *rule) grants(ask request) stage {
	switch {
	case ask.qos > byte(r.maxQoS):
		return onQoS
	case ask.retain && !r.retain:
		return onRetain
	case ask.payloadBytes > r.payloadBytes:
		return onPayload
	}
	return granted
}

// take reports whether one of the grants is for the principal and decides. It
// looks up the fewer in the more.
func (w *walk) take(grants []grant) bool {
	policies := w.rights.policies
	if len(grants) <= len(policies) {
		for _, g := range grants {
			if _, ours := slices.BinarySearch(policies, g.policy); ours && w.decides(g.term.rule) {
				return true
			}
		}
		return false
	}
	for _, p := range policies {
		i, _ := slices.BinarySearchFunc(grants, p, func(g grant, p int32) int { return cmp.Compare(g.policy, p) })
		for ; i < len(grants) && grants[i].policy == p; i++ {
			if w.decides(grants[i].term.rule) {
				return true
			}
		}
	}
	return false
}

func (w *walk) decides(r *rule) bool {
	if r.deny {
		return true
	}
	s := r.grants(w.ask)
	w.stage = max(w.stage, s)
	return s == granted
}

// contains reports whether a term at or below n contains the topic filter of
// which rest is left, and decides. A topic name is a filter without wildcards.
func (n *node) contains(w *walk, rest string, more, first bool) bool {
	if !more {
		return w.take(n.here) || w.take(n.below)
	}
	hidden := first && w.system // [MQTT-4.7.2-1]
	if !hidden && w.take(n.below) {
		return true
	}
	word, rest, more := strings.Cut(rest, "/")
	if word == "#" {
		return false
	}
	if kid := n.words[word]; kid != nil && kid.contains(w, rest, more, false) {
		return true
	}
	if n.plus != nil && !hidden && n.plus.contains(w, rest, more, false) {
		return true
	}
	for _, e := range n.variables {
		if w.through(e, func(s state) bool {
			return s == usable && w.rights.equal(e.parts, word, w.group) && e.to.contains(w, rest, more, false)
		}, first) {
			return true
		}
	}
	return false
}

// overlaps reports whether a term at or below n shares a topic with the topic
// filter of which rest is left. A missing value counts as '+', an unusable one as
// '#': a deny rule fails safe.
func (n *node) overlaps(w *walk, rest string, more, first bool) bool {
	hidden := first && w.system // [MQTT-4.7.2-1]
	if n.wide(w, first) || !hidden && w.take(n.below) {
		return true
	}
	if !more {
		return w.take(n.here)
	}
	word, rest, more := strings.Cut(rest, "/")
	switch word {
	case "#":
		return w.take(n.here) || n.any(w) // never the first level, see withParent
	case "+":
		return n.anyLevel(w, rest, more, first)
	}
	if kid := n.words[word]; kid != nil && kid.overlaps(w, rest, more, false) {
		return true
	}
	if n.plus != nil && !hidden && n.plus.overlaps(w, rest, more, false) {
		return true
	}
	for _, e := range n.variables {
		if w.through(e, func(s state) bool {
			match := s == usable && w.rights.equal(e.parts, word, w.group) || s == missing && !hidden
			return match && e.to.overlaps(w, rest, more, false)
		}, first) {
			return true
		}
	}
	return false
}

// anyLevel is overlaps for a topic filter that goes on with '+'.
func (n *node) anyLevel(w *walk, rest string, more, first bool) bool {
	for word, kid := range n.words {
		if first && (strings.HasPrefix(word, "$") || word == "" && !more) {
			continue // [MQTT-4.7.2-1], and no topic name is empty [MQTT-4.7.3-1]
		}
		if kid.overlaps(w, rest, more, false) {
			return true
		}
	}
	if n.plus != nil && n.plus.overlaps(w, rest, more, false) {
		return true
	}
	for _, e := range n.variables {
		if w.through(e, func(s state) bool { return s != unusable && e.to.overlaps(w, rest, more, false) }, first) {
			return true
		}
	}
	return false
}

// wide reports whether a term below n has a variable with an unusable value in the
// next level: it denies all that is here and below.
func (n *node) wide(w *walk, first bool) bool {
	for _, e := range n.variables {
		if w.through(e, func(s state) bool {
			return s == unusable && (w.take(e.to.here) || e.to.any(w))
		}, first) {
			return true
		}
	}
	return false
}

// any reports whether there is a term below n.
func (n *node) any(w *walk) bool {
	if w.take(n.below) {
		return true
	}
	for _, kid := range n.words {
		if w.take(kid.here) || kid.any(w) {
			return true
		}
	}
	if n.plus != nil && (w.take(n.plus.here) || n.plus.any(w)) {
		return true
	}
	for _, e := range n.variables {
		if w.through(e, func(state) bool { return w.take(e.to.here) || e.to.any(w) }, false) {
			return true
		}
	}
	return false
}

// through asks for what is behind an edge, once for each group that {group} may
// stand for.
func (w *walk) through(e *edge, behind func(state) bool, first bool) bool {
	if !e.grouped || w.group >= 0 {
		return behind(w.rights.state(e.parts, w.group, first))
	}
	found := false
	for w.group = 0; w.group < len(w.rights.groups) && !found; w.group++ {
		found = behind(w.rights.state(e.parts, w.group, first))
	}
	w.group = -1
	return found
}

// withParent returns a pattern that matches the same names and whose '#', if it
// ends in one, stands below a name that is valid: "#" and "/#" do not, because
// what is above them has no level, or an empty one [MQTT-4.7.3-1].
func withParent(pattern string) string {
	switch pattern {
	case "#":
		return "+/#"
	case "/#":
		return "/+/#"
	}
	return pattern
}
