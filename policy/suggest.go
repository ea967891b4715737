package policy

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"fairlead/mqtt/topic"
)

// Suggest drafts the least policy that allows a principal what it was seen to do,
// as the text of a document: review it before you apply it. What the built-in
// policies allow is left out; the text is empty if nothing is left, or if the
// principal is neither a device nor a user.
//
// Levels that are the principal's name, its attributes or its only group become
// variables, so that the policy fits others like it once its who is widened. More
// than [SiblingsMax] topics that differ in one level become one with '+' there;
// the payload limit is rounded up to a power of two. A topic that only the broker
// publishes to is left out.
func Suggest(p *Principal, published []Publication, subscribed []Subscription) string {
	d := &draft{rights: builtinRights(p)}
	d.variables(p)
	for _, m := range published {
		if topic.CheckName(m.Topic) == nil && !brokers(m.Topic) && !d.rights.Publish(m.Topic, m.QoS, m.Retain, m.PayloadBytes).Allowed() {
			d.add(Publish, d.template(m.Topic), request{byte(m.QoS), m.Retain, m.PayloadBytes})
		}
	}
	for _, s := range subscribed {
		if !d.rights.Subscribe(s.Filter, s.QoS).Allowed() {
			d.add(Subscribe, d.template(s.Filter.Pattern), request{qos: byte(s.QoS)})
		}
	}
	return d.text(p)
}

// SiblingsMax is how many topics that differ in one level are listed one by one.
const SiblingsMax = 8

// builtinRights are the rights of a principal without any document.
func builtinRights(p *Principal) *Rights {
	s, err := Compile()
	if err != nil {
		panic("policy: the built-in policies do not compile: " + err.Error())
	}
	return s.For(p)
}

// draft is a policy in the making.
type draft struct {
	rights   *Rights
	variable map[string]string           // levels and the variables they become
	seen     [actions]map[string]request // by filter with variables: the most that was seen
}

// variables finds what the levels of a topic may stand for. Of two variables with
// the same value, the one that says more about the principal counts.
func (d *draft) variables(p *Principal) {
	d.variable = make(map[string]string)
	add := func(text, name string) {
		if _, known := d.variable[text]; !known && makeValue(text).state == usable {
			d.variable[text] = name
		}
	}
	add(p.Device, "{device}")
	add(p.User, "{user}")
	if len(p.Groups) == 1 { // with more, {group} would allow more than was seen
		add(p.Groups[0], "{group}")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Attrs)) {
		if v := "{attr." + name + "}"; isVariable(v) {
			add(p.Attrs[name], v)
		}
	}
}

// isVariable reports whether the text is one variable, and may stand in a topic.
func isVariable(text string) bool {
	parts, err := parseParts(text)
	return err == nil && len(parts) == 1 && parts[0].kind != none && topic.CheckName(text) == nil
}

// template puts variables into a topic name or filter.
func (d *draft) template(pattern string) string {
	levels := strings.Split(pattern, "/")
	for i, word := range levels {
		if v, ok := d.variable[word]; ok && !(i == 0 && strings.HasPrefix(word, "$")) {
			levels[i] = v
		} else {
			levels[i] = strings.ReplaceAll(word, "{", "{{")
		}
	}
	return strings.Join(levels, "/")
}

func (d *draft) add(a Action, filter string, ask request) {
	if d.seen[a] == nil {
		d.seen[a] = make(map[string]request)
	}
	d.seen[a][filter] = d.seen[a][filter].most(ask)
}

// most is what grants both.
func (r request) most(o request) request {
	return request{max(r.qos, o.qos), r.retain || o.retain, max(r.payloadBytes, o.payloadBytes)}
}

// collapse puts '+' for a level in which many topics differ, the last levels
// first. The first level stays as it is.
func collapse(seen map[string]request) {
	levels := 0
	for filter := range seen {
		levels = max(levels, strings.Count(filter, "/"))
	}
	for at := levels; at > 0; at-- {
		siblings := make(map[string][]string)
		for filter := range seen {
			if parts := strings.Split(filter, "/"); at < len(parts) && parts[at] != "#" {
				parts[at] = "+"
				wide := strings.Join(parts, "/")
				siblings[wide] = append(siblings[wide], filter)
			}
		}
		for wide, filters := range siblings {
			if len(filters) <= SiblingsMax {
				continue
			}
			var most request
			for _, filter := range filters {
				most = most.most(seen[filter])
				delete(seen, filter)
			}
			seen[wide] = most.most(seen[wide])
		}
	}
}

// text writes the draft as a document.
func (d *draft) text(p *Principal) string {
	kind, name := "devices", p.Device
	if name == "" {
		kind, name = "users", p.User
	}
	if name == "" || !utf8.ValidString(name) || len(d.seen[Publish])+len(d.seen[Subscribe]) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "policies:\n  %s:\n    who:\n", quote(fmt.Sprintf("suggested for %.100s", name)))
	fmt.Fprintf(&b, "      %s: [%s]\n    allow:\n", kind, quote(name))
	collapse(d.seen[Publish])
	writeRules(&b, Publish, d.seen[Publish])
	writeRules(&b, Subscribe, d.seen[Subscribe])
	return b.String()
}

// writeRules writes a rule for all filters with the same QoS and retain, so that
// none is granted what only another needs.
func writeRules(b *strings.Builder, a Action, seen map[string]request) {
	type alike struct {
		qos    byte
		retain bool
	}
	rules := make(map[alike][]string)
	payload := make(map[alike]int)
	for filter, ask := range seen {
		k := alike{ask.qos, ask.retain}
		rules[k] = append(rules[k], filter)
		payload[k] = max(payload[k], ask.payloadBytes)
	}
	keys := slices.SortedFunc(maps.Keys(rules), func(x, y alike) int {
		return cmp.Or(cmp.Compare(x.qos, y.qos), cmp.Compare(fmt.Sprint(x.retain), fmt.Sprint(y.retain)))
	})
	for _, k := range keys {
		fmt.Fprintf(b, "      - %v:\n", a)
		for _, filter := range slices.Sorted(slices.Values(rules[k])) {
			fmt.Fprintf(b, "          - %s\n", quote(filter))
		}
		fmt.Fprintf(b, "        max_qos: %d\n", k.qos)
		if a == Publish {
			fmt.Fprintf(b, "        retain: %v\n        payload_bytes: %d\n", k.retain, roundUp(payload[k]))
		}
	}
}

// roundUp returns the next power of two.
func roundUp(n int) int {
	if n <= 1 {
		return n
	}
	return 1 << bits.Len(uint(n-1))
}

// quote writes a text in YAML's double quotes. strconv.Quote would write bytes
// where YAML has characters.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
