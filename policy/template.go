package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"fairlead/mqtt/topic"
)

// variable is what stands in braces: {device}, {attr.site}.
type variable struct {
	kind variableKind
	attr string // the name of the attribute
}

type variableKind byte

const (
	none variableKind = iota // a literal
	device
	user
	client
	group
	attribute
)

var variables = map[string]variableKind{"device": device, "user": user, "client": client, "group": group}

// part is a piece of a template: a literal, or a variable.
type part struct {
	text string
	variable
}

// level is one level of a topic filter with variables.
type level struct {
	text  string // as it is written, which tells it from others
	parts []part
}

// plain reports whether the level has no variable, and returns its text.
func (l *level) plain() (text string, ok bool) {
	switch {
	case len(l.parts) == 0:
		return "", true
	case len(l.parts) == 1 && l.parts[0].kind == none:
		return l.parts[0].text, true
	}
	return "", false
}

// template is a topic filter or a pattern of client ids, with variables.
type template struct {
	text   string
	levels []level // of a topic filter, without '#' in the end; a client id has one
	below  bool    // a topic filter that ends in '#', a pattern that ends in '*'
}

// uses reports whether the variable kind stands in the template.
func (t *template) uses(kind variableKind) bool {
	for _, l := range t.levels {
		for _, p := range l.parts {
			if p.kind == kind {
				return true
			}
		}
	}
	return false
}

// parseFilter parses a topic filter with variables.
func parseFilter(s string) (template, error) {
	f, err := topic.ParseFilter(s)
	if err != nil {
		return template{}, err
	}
	if f.Shared() {
		return template{}, fmt.Errorf("found a shared subscription, expected the topic filter %q: a rule holds for shared subscriptions as well", f.Pattern)
	}
	parts, err := parseParts(s)
	if err != nil {
		return template{}, err
	}
	t := template{text: s, levels: splitLevels(parts)}
	if last := len(t.levels) - 1; t.levels[last].text == "#" {
		t.levels, t.below = t.levels[:last], true
	}
	return t, nil
}

// parseClientID parses a pattern of client ids: a text with variables that may end
// in '*', which stands for any characters.
func parseClientID(s string) (template, error) {
	rest, star := strings.CutSuffix(s, "*")
	if strings.Contains(rest, "*") {
		return template{}, fmt.Errorf("found %q, expected '*' in the end only", s)
	}
	if s == "" {
		return template{}, errors.New("found an empty text, expected a client id")
	}
	parts, err := parseParts(rest)
	if err != nil {
		return template{}, err
	}
	t := template{text: s, levels: []level{{text: rest, parts: parts}}, below: star}
	if t.uses(client) {
		return template{}, errors.New(`found {client}, which every client id is, expected another variable, or "*"`)
	}
	return t, nil
}

// parseParts cuts a text at its variables. "{{" stands for "{".
func parseParts(s string) ([]part, error) {
	var parts []part
	var literal strings.Builder
	for s != "" {
		before, after, found := strings.Cut(s, "{")
		literal.WriteString(before)
		if !found {
			break
		}
		if rest, twice := strings.CutPrefix(after, "{"); twice {
			literal.WriteByte('{')
			s = rest
			continue
		}
		name, rest, closed := strings.Cut(after, "}")
		v, err := parseVariable(name, closed)
		if err != nil {
			return nil, err
		}
		if literal.Len() > 0 {
			parts = append(parts, part{text: literal.String()})
			literal.Reset()
		}
		parts = append(parts, part{text: "{" + name + "}", variable: v})
		s = rest
	}
	if literal.Len() > 0 {
		parts = append(parts, part{text: literal.String()})
	}
	return parts, nil
}

func parseVariable(name string, closed bool) (variable, error) {
	if closed {
		if kind := variables[name]; kind != none {
			return variable{kind: kind}, nil
		}
		if attr, ok := strings.CutPrefix(name, "attr."); ok && attr != "" && !strings.ContainsAny(attr, "/+#{") {
			return variable{kind: attribute, attr: attr}, nil
		}
		name += "}"
	}
	if len(name) > 40 {
		name = name[:40] + "..."
	}
	return variable{}, fmt.Errorf("found the variable %q, expected {device}, {group}, {user}, {client} or {attr.NAME}; write {{ for a brace that begins no variable", "{"+name)
}

// splitLevels cuts parts at the slashes of their literals.
func splitLevels(parts []part) []level {
	levels := []level{{}}
	add := func(p part) {
		at := &levels[len(levels)-1]
		at.text += p.text
		at.parts = append(at.parts, p)
	}
	for _, p := range parts {
		if p.kind != none {
			add(p)
			continue
		}
		for i, piece := range strings.Split(p.text, "/") {
			if i > 0 {
				levels = append(levels, level{})
			}
			if piece != "" {
				add(part{text: piece})
			}
		}
	}
	return levels
}

// state says whether a value may stand in a topic.
type state byte

const (
	usable   state = iota
	missing        // the principal has no such value
	unusable       // it has one that would change what the filter means
)

// value is what a variable stands for.
type value struct {
	text string
	state
}

// makeValue finds the state of a value. A value that could reach over its level,
// or is no text at all, is never put into a filter.
func makeValue(text string) value {
	switch {
	case text == "":
		return value{state: missing}
	case strings.ContainsAny(text, "/+#\x00") || !utf8.ValidString(text):
		return value{text: text, state: unusable}
	}
	return value{text: text}
}
