package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// parseJSON returns the value of a text, or notes an error.
func (s *source) parseJSON(text []byte) *Value {
	if len(bytes.Trim(text, " \t\r\n")) == 0 {
		return &Value{from: s, line: 1, column: 1} // nothing
	}
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		at := len(text)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = min(at, max(0, int(syntax.Offset)-1)) // the offset is that of the byte after
		}
		s.noteAt(text, at, "this is not JSON: "+err.Error())
		return nil
	}
	r := &jsonReader{source: s, text: text, dec: json.NewDecoder(bytes.NewReader(text)), line: 1, column: 1}
	r.dec.UseNumber()
	return r.value(1)
}

func (s *source) noteAt(text []byte, at int, what string) {
	p := placeOf(s.name, text, at)
	s.note(p.Line, p.Column, what)
}

// jsonReader walks through the tokens of a text that is known to be JSON.
type jsonReader struct {
	*source
	text []byte
	dec  *json.Decoder
	// line and column are those of the byte at.
	at, line, column int
}

// next takes the next token and returns a scalar for it; for a bracket, delim.
func (r *jsonReader) next() (v *Value, delim json.Delim) {
	begin := int(r.dec.InputOffset())
	begin += bytes.IndexFunc(r.text[begin:], func(c rune) bool { return !strings.ContainsRune(" \t\r\n,:", c) })
	token, err := r.dec.Token()
	if err != nil {
		panic(fmt.Sprintf("document: a text that was JSON is not: %v", err))
	}
	v = &Value{from: r.source, quoted: r.text[begin] == '"'}
	v.line, v.column = r.place(begin)
	switch token := token.(type) {
	case json.Delim:
		return v, token
	case nil:
		v.text = "null"
	case bool:
		v.kind, v.text = Bool, fmt.Sprint(token)
	case string:
		v.kind, v.text = Text, token
	case json.Number:
		v.kind, v.text = Float, token.String()
		if integer.MatchString(v.text) {
			v.kind = Int
		}
	}
	return v, 0
}

// place returns the place of a byte that is not before the last one.
func (r *jsonReader) place(at int) (line, column int) {
	for ; r.at < at; r.at++ {
		switch c := r.text[r.at]; {
		case c == '\n':
			r.line++
			r.column = 1
		case utf8.RuneStart(c):
			r.column++
		}
	}
	return r.line, r.column
}

// value takes the next value.
func (r *jsonReader) value(depth int) *Value {
	v, delim := r.next()
	r.values++
	if r.values == ValuesMax+1 {
		v.Errorf("found more than %d values in the document, expected fewer", ValuesMax)
	}
	if delim != 0 && depth == DepthMax+1 {
		v.Errorf("found more than %d mappings and lists within each other, expected fewer", DepthMax)
	}
	switch delim {
	case '[':
		v.kind = List
		for r.dec.More() {
			v.items = append(v.items, r.value(depth+1))
		}
		r.next()
	case '{':
		v.kind = Map
		for r.dec.More() {
			key, _ := r.next()
			v.keys = append(v.keys, key)
			v.items = append(v.items, r.value(depth+1))
		}
		r.next()
		v.checkKeys()
	}
	return v
}
