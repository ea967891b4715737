package auth

import (
	"encoding/binary"
	"fmt"
	"hash"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what a name may be and how many there may be, in bytes and counts.
// What is beyond them is refused.
const (
	nameMax   = 256
	valueMax  = 1024 // of an attribute
	groupsMax = 64   // that a token or a hook may give
	attrsMax  = 64   // the same
)

// checkName refuses names that could reach beyond their level of a topic, or that
// a log or a terminal can't show: / + # and control characters.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > nameMax:
		return fmt.Errorf("%s has %d bytes: expected at most %d", what, len(name), nameMax)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s %q is not UTF-8", what, name)
	case strings.ContainsAny(name, "/+#"):
		return fmt.Errorf("%s %q: a name has none of / + #", what, name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%s %q: a name has no control characters", what, name)
	}
	return nil
}

// checkDevice refuses what can't be a device's name. A colon parts the name from
// the suffix of a Client Identifier.
func checkDevice(name string) error {
	if strings.Contains(name, ":") {
		return fmt.Errorf("device %q: the name of a device has no colon", shorten(name))
	}
	return checkName("device", name)
}

// checkValue refuses what can't be the value of an attribute.
func checkValue(what, value string) error {
	switch {
	case len(value) > valueMax:
		return fmt.Errorf("%s has %d bytes: expected at most %d", what, len(value), valueMax)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		return fmt.Errorf("%s %q: expected text without control characters", what, value)
	}
	return nil
}

// shown is how much of a name that a stranger has sent is repeated to the operator.
const shown = 128

// shorten cuts what a stranger calls itself to a length that a log can bear.
func shorten(s string) string {
	if len(s) <= shown {
		return s
	}
	return strings.ToValidUTF8(s[:shown], "") + "…"
}

// command fills a name into a command for the operator to paste. A name that a
// shell could understand as something else is left out: strangers choose names.
func command(format, name string) string {
	plain := func(r rune) bool {
		return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("._-@", r)
	}
	if name == "" || len(name) > nameMax || name[0] == '-' || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		name = "NAME"
	}
	return fmt.Sprintf(format, name)
}

// writeParts writes each part with its length in front, so that no two lists of
// parts give the same hash.
func writeParts(h hash.Hash, parts ...[]byte) {
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
}
