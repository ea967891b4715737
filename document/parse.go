package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Parse reads a text of YAML or, if the name ends in ".json", of JSON. The name
// is for errors: the path of the file, as its author knows it. An empty text is a
// value of kind Null.
//
// The error lists what makes the text no document, see the package comment: each
// line is an [*Error] with its place.
func Parse(name string, text []byte) (*Value, error) {
	s := &source{name: name}
	if err := checkText(name, text); err != nil {
		return nil, err
	}
	var v *Value
	if strings.HasSuffix(name, ".json") {
		v = s.parseJSON(text)
	} else {
		v = s.parseYAML(text)
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	return v, nil
}

// checkText checks what YAML and JSON have in common.
func checkText(name string, text []byte) error {
	if len(text) > BytesMax {
		return &Error{Place{name, 1, 1}, fmt.Sprintf("found %d bytes, expected at most %d", len(text), BytesMax)}
	}
	if !utf8.Valid(text) {
		at := 0
		for {
			r, size := utf8.DecodeRune(text[at:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			at += size
		}
		return &Error{placeOf(name, text, at), fmt.Sprintf("found the byte 0x%02X, expected UTF-8", text[at])}
	}
	return nil
}

// placeOf returns the place of a byte.
func placeOf(name string, text []byte, at int) Place {
	before := text[:at]
	line := bytes.LastIndexByte(before, '\n') + 1
	return Place{name, 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[line:])}
}

// parseYAML returns the value of a text, or notes errors.
func (s *source) parseYAML(text []byte) *Value {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	err := dec.Decode(&first)
	if errors.Is(err, io.EOF) || err == nil && len(first.Content) == 0 {
		return &Value{from: s, line: 1, column: 1}
	}
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			s.note(second.Line, second.Column, "found a second document, expected one")
			return nil
		}
	}
	if !errors.Is(err, io.EOF) {
		s.noteSyntax(err)
		return nil
	}
	return s.value(first.Content[0], 1)
}

// syntax is how the YAML package words an error.
var syntax = regexp.MustCompile(`^yaml: (?:line (\d+): )?(?s:(.*))$`)

// noteSyntax notes an error of the YAML package, which knows lines and no
// columns.
func (s *source) noteSyntax(err error) {
	line, what := 1, err.Error()
	if m := syntax.FindStringSubmatch(what); m != nil {
		what = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	s.note(line, 1, "not YAML on or next to this line: "+what+" (a text that begins with one of { [ * & ! # needs quotes)")
}

// value makes a Value of a node.
func (s *source) value(n *yaml.Node, depth int) *Value {
	v := &Value{from: s, line: n.Line, column: n.Column}
	s.values++
	switch {
	case s.values > ValuesMax:
		if s.values == ValuesMax+1 {
			v.Errorf("found more than %d values in the document, expected fewer", ValuesMax)
		}
	case n.Kind == yaml.AliasNode:
		v.Errorf("found the alias *%s, expected a value: aliases are not used here; a text that begins with \"*\" needs quotes", n.Value)
	case n.Anchor != "":
		v.Errorf("found the anchor &%s, expected a value: anchors are not used here; a text that begins with \"&\" needs quotes", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		v.Errorf("found the tag %s, expected a value: tags are not used here; a text that begins with \"!\" needs quotes", n.Tag)
	case n.Kind == yaml.ScalarNode:
		s.scalar(v, n)
	case depth > DepthMax:
		v.Errorf("found more than %d mappings and lists within each other, expected fewer", DepthMax)
	case n.Kind == yaml.SequenceNode:
		v.kind = List
		for _, item := range n.Content {
			v.items = append(v.items, s.value(item, depth+1))
		}
	default:
		v.kind = Map
		for i := 0; i+1 < len(n.Content); i += 2 {
			v.keys = append(v.keys, s.value(n.Content[i], depth+1))
			v.items = append(v.items, s.value(n.Content[i+1], depth+1))
		}
		v.checkKeys()
	}
	return v
}

// integer and number are the grammar of JSON.
var (
	integer = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	number  = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
)

// scalar gives v the kind that a plain scalar has in JSON.
func (s *source) scalar(v *Value, n *yaml.Node) {
	v.text = n.Value
	v.quoted = n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch {
	case v.quoted:
		v.kind = Text
	case n.Tag == "!!null":
		v.kind = Null
	case n.Tag == "!!bool":
		v.kind = Bool
	case integer.MatchString(n.Value):
		v.kind = Int
	case number.MatchString(n.Value):
		v.kind = Float
	case n.Tag == "!!merge":
		v.Errorf("found the merge key <<, expected a key: anchors and aliases are not used here")
	case n.Tag == "!!timestamp":
		v.Errorf("found the date %s, expected text or a number: put it in quotes", excerpt(n.Value))
	case (n.Tag == "!!int" || n.Tag == "!!float") && !strings.Contains(n.Value, "_"):
		v.Errorf("found %s, which not every reader of YAML takes for the same number, expected one like 10 or -1.5: put it in quotes if it is text", excerpt(n.Value))
	default:
		v.kind = Text
	}
}

// checkKeys notes the keys of a mapping that are not keys, or stand there twice.
func (v *Value) checkKeys() {
	first := make(map[string]int, len(v.keys))
	for _, key := range v.keys {
		if key.kind == List || key.kind == Map || key.kind == Null {
			key.Errorf("found %s for a key, expected a word", key.found())
			continue
		}
		if line, twice := first[key.text]; twice {
			key.Errorf("found the key %s twice, first in line %d, expected it once", excerpt(key.text), line)
			continue
		}
		first[key.text] = key.line
	}
}
