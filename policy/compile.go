package policy

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fairlead/document"
)

//go:embed builtin.yaml
var builtinText []byte

// builtinName is where the built-in policies stand, in explanations.
const builtinName = "builtin.yaml"

// Set is a set of policies, compiled. It does not change.
type Set struct {
	policies []*policy
	builtin  bool
	attrs    []string // that rules use, sorted

	allow, deny [actions]node // by action; Connect has none

	// Whom policies are for, by their index: a principal meets its own only.
	everyone, everyDevice, everyUser []int32
	byDevice, byUser, byGroup        map[string][]int32
	byAttr                           map[attr][]int32 // those that ask for attributes only
}

// Compile makes a Set of documents and the built-in policies. It fails if two
// policies have the same name.
func Compile(documents ...*Document) (*Set, error) {
	s := &Set{builtin: true, byDevice: make(map[string][]int32), byUser: make(map[string][]int32),
		byGroup: make(map[string][]int32), byAttr: make(map[attr][]int32)}
	for _, d := range documents {
		s.builtin = s.builtin && !d.builtinOff
	}
	if s.builtin {
		b, err := Parse(builtinName, builtinText)
		if err != nil {
			return nil, fmt.Errorf("the built-in policies: %w", err)
		}
		documents = append([]*Document{b}, documents...)
	}
	var errs []error
	first := make(map[string]document.Place)
	for _, d := range documents {
		for _, p := range d.policies {
			if at, twice := first[p.name]; twice {
				errs = append(errs, &document.Error{Place: p.at, What: fmt.Sprintf("found the policy %q twice, first at %v, expected a name of its own", p.name, at)})
				continue
			}
			first[p.name] = p.at
			s.add(p)
		}
	}
	s.attrs = attrNames(s.policies)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// add takes a policy into the indexes.
func (s *Set) add(p *policy) {
	i := len(s.policies)
	s.policies = append(s.policies, p)
	s.index(int32(i), &p.who)
	for _, r := range p.rules {
		for _, t := range r.terms {
			switch {
			case t.action == Connect: // (*Rights).Connect tries them one by one
			case r.deny:
				s.deny[t.action].insert(i, t)
			default:
				s.allow[t.action].insert(i, t)
			}
		}
	}
}

func (s *Set) index(i int32, w *who) {
	switch {
	case w.everyone:
		s.everyone = append(s.everyone, i)
	case w.everyDevice:
		s.everyDevice = append(s.everyDevice, i)
	case w.everyUser:
		s.everyUser = append(s.everyUser, i)
	case w.onlyAttrs():
		s.byAttr[w.attrs[0]] = append(s.byAttr[w.attrs[0]], i)
	}
	for _, name := range w.devices {
		s.byDevice[name] = append(s.byDevice[name], i)
	}
	for _, name := range w.users {
		s.byUser[name] = append(s.byUser[name], i)
	}
	for _, name := range w.groups {
		s.byGroup[name] = append(s.byGroup[name], i)
	}
}

// applying returns the policies for a principal, in the order of the documents.
func (s *Set) applying(p *Principal) []int32 {
	found := slices.Clone(s.everyone)
	if p.Device != "" {
		found = append(append(found, s.everyDevice...), s.byDevice[p.Device]...)
	} else {
		found = append(found, s.everyUser...)
	}
	if p.User != "" {
		found = append(found, s.byUser[p.User]...)
	}
	for _, g := range p.Groups {
		found = append(found, s.byGroup[g]...)
	}
	if len(s.byAttr) > 0 {
		for name, value := range p.Attrs {
			found = append(found, s.byAttr[attr{name, value}]...)
		}
	}
	found = slices.DeleteFunc(found, func(i int32) bool { return !s.policies[i].who.fits(p) })
	slices.Sort(found)
	return slices.Clip(slices.Compact(found))
}

// For returns the rights of a principal. It keeps the principal's strings, and
// nothing else of it.
func (s *Set) For(p *Principal) *Rights {
	r := &Rights{set: s, device: makeValue(p.Device), user: makeValue(p.User), client: makeValue(string(p.Client))}
	switch p.Method {
	case MethodOpen:
		r.reach = reachAll
		return r
	case MethodOperator:
		r.reach = roleReach(p.Groups)
		return r
	}
	r.policies = s.applying(p)
	for _, g := range p.Groups {
		if g != "" && !slices.ContainsFunc(r.groups, func(v value) bool { return v.text == g }) {
			r.groups = append(r.groups, makeValue(g))
		}
	}
	for i, name := range s.attrs {
		if text, ok := p.Attrs[name]; ok {
			r.attrs = append(r.attrs, attrValue{int32(i), makeValue(text)})
		}
	}
	for _, i := range r.policies {
		r.limits = r.limits.stricter(s.policies[i].limits)
		for _, rule := range s.policies[i].rules {
			for _, t := range rule.terms {
				r.denies[t.action] = r.denies[t.action] || rule.deny
			}
		}
	}
	if s.builtin && p.Device != "" && r.device.state == usable {
		r.own = "devices/" + p.Device
	}
	return r
}

// roleReach is what the roles of an operator open.
func roleReach(roles []string) reach {
	switch {
	case slices.Contains(roles, RoleOperator) || slices.Contains(roles, RoleAdmin):
		return reachAll
	case slices.Contains(roles, RoleViewer):
		return reachRead
	}
	return reachNothing
}

// NameOf returns the device that a client id belongs to: all of it, or what is
// before the first ':'. Device names hold no ':'.
func NameOf(id string) string {
	name, _, _ := strings.Cut(id, ":")
	return name
}
