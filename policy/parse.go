package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"fairlead/document"
	"fairlead/mqtt"
)

// Document is a document of policies that was read and found right.
type Document struct {
	builtinOff bool
	policies   []*policy
}

// policy is one named policy.
type policy struct {
	name   string
	at     document.Place
	who    who
	rules  []*rule
	limits Limits
	// digest is equal for policies that grant the same, whatever they are called,
	// wherever they stand and whomever they are for.
	digest [sha256.Size]byte
}

// who says whom a policy is for.
type who struct {
	everyone, everyDevice, everyUser bool
	devices, users, groups           []string
	attrs                            []attr // all must be as they say; sorted by name
}

type attr struct{ name, value string }

// rule is one entry of allow or deny.
type rule struct {
	policy *policy
	deny   bool
	terms  []*term

	// What an allow rule grants at most.
	maxQoS       mqtt.QoS
	retain       bool
	payloadBytes int
}

// term is one action of a rule with one topic filter or client id.
type term struct {
	rule   *rule
	action Action
	filter template
	at     document.Place
}

// String returns the term in one line: "allow publish devices/{device}/#".
func (t *term) String() string {
	verb := "allow"
	if t.rule.deny {
		verb = "deny"
	}
	return fmt.Sprintf("%s %v %s", verb, t.action, t.filter.text)
}

// Parse reads a document of policies; docs/policies.md describes it. The name is
// for errors and explanations. The error lists what is wrong, each with file,
// line, column, what was found and what was expected.
func Parse(name string, text []byte) (*Document, error) {
	v, err := document.Parse(name, text)
	if err != nil {
		return nil, err
	}
	d := &Document{}
	v.Known("policies", "builtin", "policies")
	if b := v.Get("builtin"); b != nil {
		switch word, ok := b.Text("on or off"); {
		case word == "off":
			d.builtinOff = true
		case ok && word != "on":
			b.Errorf("found %.80q, expected on or off", word)
		}
	}
	for key, value := range v.Get("policies").Entries("policies by their names") {
		d.policies = append(d.policies, readPolicy(key, value))
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	return d, nil
}

func readPolicy(key, v *document.Value) *policy {
	p := &policy{at: key.Place()}
	p.name, _ = key.Text("a name")
	if p.name == "" {
		key.Errorf("found an empty name, expected a name of a policy")
	}
	if v.Kind() == document.Null {
		key.Errorf("found a policy without rules, expected who, and allow, deny or limits")
		return p
	}
	v.Known("a policy with who, allow, deny and limits", "who", "allow", "deny", "limits")
	if v.Kind() != document.Map {
		return p
	}
	p.readWho(key, v.Get("who"))
	for _, item := range v.Get("allow").Items("a list of rules") {
		p.rules = append(p.rules, p.readRule(item, false))
	}
	for _, item := range v.Get("deny").Items("a list of rules") {
		p.rules = append(p.rules, p.readRule(item, true))
	}
	p.limits = readLimits(v.Get("limits"))
	p.digest = p.sum()
	return p
}

const whoExpected = "everyone, every device, every user, or a mapping of devices, users, groups and attrs"

func (p *policy) readWho(key, v *document.Value) {
	switch v.Kind() {
	case document.Null:
		key.Errorf("found no who, expected who: %s", whoExpected)
	case document.Map:
		p.readNames(v)
	default:
		word, _ := v.Text(whoExpected)
		switch word {
		case "everyone":
			p.who.everyone = true
		case "every device":
			p.who.everyDevice = true
		case "every user":
			p.who.everyUser = true
		default:
			if v.Kind() != document.List {
				v.Errorf("found %.80q, expected %s", word, whoExpected)
			}
		}
	}
}

// readNames reads a who that is a mapping.
func (p *policy) readNames(v *document.Value) {
	w := &p.who
	v.Known(whoExpected, "devices", "users", "groups", "attrs")
	for _, names := range []struct {
		key string
		to  *[]string
	}{{"devices", &w.devices}, {"users", &w.users}, {"groups", &w.groups}} {
		for _, item := range v.Get(names.key).OneOrMore("a name, or a list of names") {
			name, ok := item.Text("a name, or a list of names")
			if ok && name == "" {
				item.Errorf("found an empty name, expected one of %s", names.key)
			}
			*names.to = append(*names.to, name)
		}
	}
	for key, value := range v.Get("attrs").Entries("attributes and their values") {
		name, _ := key.Text("the name of an attribute")
		if text, ok := value.Text("the value of an attribute"); ok {
			w.attrs = append(w.attrs, attr{name, text})
		}
	}
	slices.SortFunc(w.attrs, func(a, b attr) int { return cmp.Compare(a.name, b.name) })
	if w.devices == nil && w.users == nil && w.groups == nil && w.attrs == nil {
		v.Errorf("found nobody, expected %s", whoExpected)
	}
}

// readRule reads an entry of allow or deny.
func (p *policy) readRule(v *document.Value, deny bool) *rule {
	r := &rule{policy: p, deny: deny, maxQoS: mqtt.QoS2, retain: true, payloadBytes: math.MaxInt}
	const expected = "a rule like - publish: a/b"
	if v.Kind() != document.Map {
		v.Errorf("found no keys, expected %s", expected)
		return r
	}
	if deny {
		v.Known(expected, "connect", "publish", "subscribe")
	} else {
		v.Known(expected, "connect", "publish", "subscribe", "max_qos", "retain", "payload_bytes")
	}
	for action := range actions {
		r.readTerms(v.Get(action.String()), action)
	}
	if v.Get("connect") == nil && v.Get("publish") == nil && v.Get("subscribe") == nil {
		v.Errorf("found no action, expected connect, publish or subscribe")
	}
	if !deny {
		r.readConditions(v)
	}
	return r
}

func (r *rule) readTerms(v *document.Value, action Action) {
	expected, parse := "a topic filter, or a list of topic filters", parseFilter
	if action == Connect {
		expected, parse = "a client id, or a list of client ids", parseClientID
	}
	for _, item := range v.OneOrMore(expected) {
		text, ok := item.Text(expected)
		if !ok {
			continue
		}
		filter, err := parse(text)
		if err != nil {
			item.Errorf("%v", err)
			continue
		}
		r.terms = append(r.terms, &term{r, action, filter, item.Place()})
	}
}

// readConditions reads what an allow rule grants at most. A condition that no
// action of the rule has would be a mistake that nobody sees.
func (r *rule) readConditions(v *document.Value) {
	qos, retain, size := v.Get("max_qos"), v.Get("retain"), v.Get("payload_bytes")
	if n, ok := qos.Int(0, 2); ok {
		r.maxQoS = mqtt.QoS(n)
	}
	if b, ok := retain.Bool(); ok {
		r.retain = b
	}
	if n, ok := size.Bytes(); ok {
		r.payloadBytes = int(n)
	}
	if v.Get("publish") == nil {
		retain.Errorf("found retain in a rule without publish, expected publish")
		size.Errorf("found payload_bytes in a rule without publish, expected publish")
		if v.Get("subscribe") == nil {
			qos.Errorf("found max_qos in a rule without publish and subscribe, expected one of them")
		}
	}
}

// sum makes the digest of a policy.
func (p *policy) sum() [sha256.Size]byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v\n", p.limits)
	for _, r := range p.rules {
		fmt.Fprintf(&b, "%v %v %v\n", r.maxQoS, r.retain, r.payloadBytes)
		for _, t := range r.terms {
			fmt.Fprintf(&b, "%q\n", t.String())
		}
	}
	return sha256.Sum256([]byte(b.String()))
}

// fits reports whether the attributes are what the policy wants.
func (w *who) fits(p *Principal) bool {
	for _, a := range w.attrs {
		if got, ok := p.Attrs[a.name]; !ok || got != a.value {
			return false
		}
	}
	return true
}

// means reports whether the policy is for the principal. [Set.For] answers the
// same by an index.
func (w *who) means(p *Principal) bool {
	named := w.everyone || w.everyDevice && p.Device != "" || w.everyUser && p.Device == "" ||
		p.Device != "" && slices.Contains(w.devices, p.Device) || p.User != "" && slices.Contains(w.users, p.User) ||
		slices.ContainsFunc(w.groups, func(g string) bool { return slices.Contains(p.Groups, g) })
	return w.fits(p) && (named || w.onlyAttrs())
}

// onlyAttrs reports whether attributes alone say whom the policy is for.
func (w *who) onlyAttrs() bool {
	return !w.everyone && !w.everyDevice && !w.everyUser && w.devices == nil && w.users == nil && w.groups == nil
}

// attrNames returns the names of all attributes that rules use.
func attrNames(policies []*policy) []string {
	names := make(map[string]bool)
	for _, p := range policies {
		for _, r := range p.rules {
			for _, t := range r.terms {
				for _, l := range t.filter.levels {
					for _, part := range l.parts {
						if part.kind == attribute {
							names[part.attr] = true
						}
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
