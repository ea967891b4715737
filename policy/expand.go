package policy

import (
	"strings"

	"fairlead/mqtt/topic"
)

// expansion is a term with the values of a principal: what a rule means for it.
type expansion struct {
	*term
	filter  string // a topic filter without variables
	all     bool   // a deny rule that denies everything, topics with '$' included
	widened bool   // a deny rule that denies more than it says, for want of a value
}

// expand yields what the rules of an action mean for the principal, in the order
// of the documents. An allow rule whose variable has no usable value means
// nothing. A deny rule fails safe: a level whose variable has no value becomes
// '+', because any value could be meant; one whose value is unusable, because it
// holds '/' for instance, becomes '#', because nobody knows how far it reaches.
func (r *Rights) expand(a Action, yield func(expansion) bool) {
	for _, i := range r.policies {
		for _, rule := range r.set.policies[i].rules {
			for _, t := range rule.terms {
				if t.action == a && !r.expandTerm(t, yield) {
					return
				}
			}
		}
	}
}

// expandTerm yields an expansion for each group if {group} is used.
func (r *Rights) expandTerm(t *term, yield func(expansion) bool) bool {
	if !t.filter.uses(group) {
		e, ok := r.expandFor(t, -1)
		return !ok || yield(e)
	}
	for g := range r.groups {
		if e, ok := r.expandFor(t, g); ok && !yield(e) {
			return false
		}
	}
	return true
}

func (r *Rights) expandFor(t *term, group int) (e expansion, ok bool) {
	e.term = t
	var levels []string
	for i, l := range t.filter.levels {
		s := r.state(l.parts, group, i == 0)
		if s != usable && !t.rule.deny {
			return e, false
		}
		if s == unusable {
			e.filter, e.all, e.widened = strings.Join(append(levels, "#"), "/"), i == 0, true
			return e, true
		}
		if s == missing {
			levels, e.widened = append(levels, "+"), true
			continue
		}
		levels = append(levels, r.fill(l.parts, group))
	}
	if t.filter.below {
		levels = append(levels, "#")
	}
	e.filter = strings.Join(levels, "/")
	return e, true
}

// fill puts values into a level.
func (r *Rights) fill(parts []part, group int) string {
	var b strings.Builder
	for _, p := range parts {
		if p.kind == none {
			b.WriteString(p.text)
		} else {
			b.WriteString(r.valueOf(p.variable, group).text)
		}
	}
	return b.String()
}

// contains reports whether an allow rule contains a topic filter, or matches a
// topic name.
func (e *expansion) contains(pattern string) bool { return topic.Contains(e.filter, pattern) }

// overlaps reports whether a deny rule shares a topic with a topic filter, or
// matches a topic name.
func (e *expansion) overlaps(pattern string) bool { return e.all || topic.Overlap(e.filter, pattern) }
