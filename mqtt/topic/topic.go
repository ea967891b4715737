// Package topic is the grammar of MQTT topics: what is a valid Topic Name and
// Topic Filter, which names a filter matches, and two indexes over them.
//
// Begin with [ParseFilter] and [Match]. A [Trie] holds subscriptions and finds
// those that a Topic Name wakes. A [Names] holds Topic Names and finds those
// that a Topic Filter selects.
//
// A level is what stands between two '/' characters; it may be empty, so "a/"
// has two levels and "/" has two empty ones. Levels are compared byte for byte:
// no normalization and no folding of case [MQTT-4.7.3-4].
//
// Nothing here locks. Any number of goroutines may read at the same time as
// long as none writes.
package topic

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// BytesMax is the longest Topic Name or Topic Filter, in bytes [MQTT-4.7.3-3].
// Longer ones are refused by [CheckName] and [ParseFilter].
const BytesMax = 65535

// CheckName returns nil if s is a valid Topic Name, and otherwise an error that
// says what is wrong and where. A Topic Name
//   - has at least one character [MQTT-4.7.3-1] and at most [BytesMax] bytes
//     [MQTT-4.7.3-3],
//   - is valid UTF-8 [MQTT-3.3.2-1] without U+0000 [MQTT-4.7.3-2],
//   - contains neither '+' nor '#' [MQTT-3.3.2-2] [MQTT-4.7.0-1]
//     [v3 MQTT-4.7.1-1].
func CheckName(s string) error {
	if err := checkText("topic name", s); err != nil {
		return err
	}
	if i := strings.IndexAny(s, "+#"); i >= 0 {
		return fmt.Errorf("topic name %s: wildcard %q at byte %d: wildcards belong in topic filters only", excerpt(s), s[i], i)
	}
	return nil
}

// checkText checks what Topic Names and Topic Filters have in common.
func checkText(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s is empty: expected at least one character", what) // [MQTT-4.7.3-1]
	}
	if len(s) > BytesMax {
		return fmt.Errorf("%s %s has %d bytes: expected at most %d", what, excerpt(s), len(s), BytesMax) // [MQTT-4.7.3-3]
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %s is not valid UTF-8 at byte %d", what, excerpt(s), invalidAt(s))
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Errorf("%s %s: character U+0000 at byte %d is not allowed", what, excerpt(s), i) // [MQTT-4.7.3-2]
	}
	return nil
}

// invalidAt returns the index of the first byte of s that is not valid UTF-8.
func invalidAt(s string) int {
	for i, r := range s {
		if r != utf8.RuneError {
			continue
		}
		if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
			return i // U+FFFD itself is three bytes long, and valid
		}
	}
	return len(s)
}

// excerptMax is how much of a peer's text an error repeats, in bytes; the rest
// is cut off.
const excerptMax = 100

// excerpt quotes s for an error.
func excerpt(s string) string {
	if len(s) <= excerptMax {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q...", s[:excerptMax])
}

// Match reports whether the Topic Filter pattern, without $share/<name>/,
// matches the Topic Name name. '+' stands for exactly one level, even an empty
// one; '#' for the level above it and everything below. A pattern that begins
// with a wildcard does not match a name that begins with '$' [MQTT-4.7.2-1].
//
// Both must be valid: see [ParseFilter] and [CheckName]. The cost is linear in
// the shorter of the two.
func Match(pattern, name string) bool {
	if beginsWild(pattern) && system(name) {
		return false
	}
	for {
		want, patternRest, patternMore := strings.Cut(pattern, "/")
		if want == "#" {
			return true
		}
		level, nameRest, nameMore := strings.Cut(name, "/")
		if want != "+" && want != level {
			return false
		}
		if !nameMore {
			return !patternMore || patternRest == "#" // "a/#" matches "a" too
		}
		if !patternMore {
			return false
		}
		pattern, name = patternRest, nameRest
	}
}

// Overlap reports whether some Topic Name is matched by both Topic Filters. It
// does not ask whether that name would fit in [BytesMax] bytes.
func Overlap(a, b string) bool {
	if beginsWild(a) && system(b) || beginsWild(b) && system(a) {
		return false // [MQTT-4.7.2-1]
	}
	a, b = withParent(a), withParent(b)
	for {
		levelA, restA, moreA := strings.Cut(a, "/")
		levelB, restB, moreB := strings.Cut(b, "/")
		if levelA == "#" || levelB == "#" {
			return true
		}
		if levelA != levelB && levelA != "+" && levelB != "+" {
			return false
		}
		if !moreA {
			return !moreB || restB == "#"
		}
		if !moreB {
			return restA == "#"
		}
		a, b = restA, restB
	}
}

// Contains reports whether the Topic Filter a matches every Topic Name that the
// Topic Filter b matches.
func Contains(a, b string) bool {
	if beginsWild(a) && system(b) {
		return false // [MQTT-4.7.2-1]
	}
	b = withParent(b)
	for {
		levelA, restA, moreA := strings.Cut(a, "/")
		levelB, restB, moreB := strings.Cut(b, "/")
		if levelA == "#" {
			return true
		}
		if levelB == "#" || levelA != "+" && levelA != levelB {
			return false
		}
		if !moreB {
			return !moreA || restA == "#"
		}
		if !moreA {
			return false
		}
		a, b = restA, restB
	}
}

// withParent returns a pattern that matches the same names and whose '#', if it
// ends in one, stands below a name that is valid. "#" and "/#" do not: what is
// above them has no level, or an empty one, and a Topic Name has at least one
// character [MQTT-4.7.3-1].
func withParent(pattern string) string {
	switch pattern {
	case "#":
		return "+/#"
	case "/#":
		return "/+/#"
	}
	return pattern
}

// beginsWild reports whether the pattern begins with a wildcard.
func beginsWild(pattern string) bool {
	return pattern != "" && (pattern[0] == '+' || pattern[0] == '#')
}

// system reports whether the name or pattern begins with '$': it is the
// Server's, and hidden from wildcards in its first level.
func system(s string) bool {
	return s != "" && s[0] == '$'
}

// wild reports whether the pattern has a wildcard. It asks the last byte first,
// where most wildcards stand.
func wild(pattern string) bool {
	return strings.HasSuffix(pattern, "#") || strings.IndexByte(pattern, '+') >= 0
}
