// Package document reads YAML and JSON texts that people write, such as policies,
// into values that know their places. Begin with [Parse]; walk the [Value] that it
// returns with methods like [Value.Get], [Value.Entries] and [Value.Text]; ask
// [Value.Err] in the end. A method that finds something else than it is asked for
// notes an error, with file, line and column, what was found and what was
// expected; so one reading of a document lists all that is wrong with it.
//
// It is stricter than YAML, so that a text means what it seems to mean:
//   - A key stands once in its mapping, and is not empty.
//   - There are no anchors, aliases, merge keys and tags: nothing is far from
//     where it counts, and no text is larger than it looks.
//   - Plain scalars have the types of JSON. What other readers of YAML take for a
//     date, an octal, hexadecimal, binary or infinite number needs quotes. Words
//     like yes and off are text.
//   - There is one document in a text.
//
// A text whose name ends in ".json" has to be JSON.
package document

import (
	"errors"
	"fmt"
	"strings"
)

// The limits of a text. A text beyond one of them is an error.
const (
	BytesMax  = 1 << 20 // of the text
	DepthMax  = 64      // mappings and lists within each other
	ValuesMax = 200_000 // mappings, lists, keys and scalars
)

// errorsMax is how many errors of one document are listed; what follows is
// counted.
const errorsMax = 20

// Place is a place in a document. The zero Place is nowhere.
type Place struct {
	File         string
	Line, Column int // from 1; columns count characters
}

// String returns "file:line:column".
func (p Place) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Error is what is wrong at one place of a document.
type Error struct {
	Place Place
	What  string // "qos: found 3, expected a whole number from 0 to 2"
}

func (e *Error) Error() string { return e.Place.String() + ": " + e.What }

// Kind is the kind of a value.
type Kind int

// The kinds.
const (
	Null Kind = iota // null, or nothing after a key
	Bool
	Int   // a number without fraction and exponent
	Float // any other number
	Text
	List
	Map
)

// Value is one value of a document. A nil Value stands for one that is not there:
// its methods return nothing and note no error.
type Value struct {
	from         *source
	kind         Kind
	text         string   // of a scalar, as it is written, without quotes
	quoted       bool     // the scalar stands in quotes
	keys         []*Value // of a Map, each a scalar
	items        []*Value // of a List, or those that belong to keys
	line, column int
}

// source is what the values of one document share.
type source struct {
	name   string
	values int // so far
	errs   []error
	more   int // errors beyond errorsMax
}

// note adds an error.
func (s *source) note(line, column int, what string) {
	if len(s.errs) == errorsMax {
		s.more++
		return
	}
	s.errs = append(s.errs, &Error{Place{s.name, line, column}, what})
}

// err returns all that was noted.
func (s *source) err() error {
	if s.more > 0 {
		return errors.Join(append(s.errs[:len(s.errs):len(s.errs)], fmt.Errorf("%s: and %d more errors", s.name, s.more))...)
	}
	return errors.Join(s.errs...)
}

// Place returns where the value begins.
func (v *Value) Place() Place {
	if v == nil {
		return Place{}
	}
	return Place{v.from.name, v.line, v.column}
}

// Kind returns the kind of the value, Null if it is not there.
func (v *Value) Kind() Kind {
	if v == nil {
		return Null
	}
	return v.kind
}

// Errorf notes an error at the place of the value. Say what was found and what
// was expected.
func (v *Value) Errorf(format string, args ...any) {
	if v != nil {
		v.from.note(v.line, v.column, fmt.Sprintf(format, args...))
	}
}

// Err returns all errors that were noted in the document of the value, a line
// each; nil if there are none. Each is an [*Error]; beyond the twentieth they are
// only counted.
func (v *Value) Err() error {
	if v == nil {
		return nil
	}
	return v.from.err()
}

// found describes the value for an error.
func (v *Value) found() string {
	switch {
	case v.kind == Null && v.text == "":
		return "nothing"
	case v.kind == List:
		return "a list"
	case v.kind == Map:
		return "a mapping"
	case v.quoted:
		return excerpt(v.text)
	}
	return strings.Trim(excerpt(v.text), `"`)
}

// excerptMax is how many bytes of a value an error repeats.
const excerptMax = 80

func excerpt(s string) string {
	if len(s) <= excerptMax {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q...", s[:excerptMax])
}

// unlike notes that the value is not what was expected, with a hint for the two
// mistakes that YAML invites.
func (v *Value) unlike(expected string) {
	hint := ""
	switch {
	case v.kind == Map && v.column > 0 && len(v.keys) == 1 && v.items[0].kind == Null:
		hint = ` (a text that begins with "{" needs quotes)`
	case v.kind == Null && v.text == "":
		hint = ` (a text that begins with "#" needs quotes)`
	}
	v.Errorf("found %s, expected %s%s", v.found(), expected, hint)
}
