package topic

import (
	"errors"
	"fmt"
	"strings"
)

// sharePrefix begins the Topic Filter of a Shared Subscription.
const sharePrefix = "$share/"

// Filter is a parsed Topic Filter. Make one with [ParseFilter]. Filters can be
// compared with ==, and two are equal when their wire forms are.
type Filter struct {
	// Share is the ShareName, or "" if the subscription is not shared.
	Share string
	// Pattern is the Topic Filter without $share/<ShareName>/. It is what
	// [Match], [Trie] and [Names] work with.
	Pattern string
}

// ParseFilter parses a Topic Filter as it stands in SUBSCRIBE and UNSUBSCRIBE.
// The error says what is wrong and where; a Server answers it with
// mqtt.TopicFilterInvalid. A Topic Filter
//   - has at least one character [MQTT-4.7.3-1] and at most [BytesMax] bytes
//     [MQTT-4.7.3-3],
//   - is valid UTF-8 [MQTT-3.8.3-1] without U+0000 [MQTT-4.7.3-2],
//   - has '#' only alone in its last level [MQTT-4.7.1-1] [v3 MQTT-4.7.1-2],
//   - has '+' only alone in a level [MQTT-4.7.1-2] [v3 MQTT-4.7.1-3],
//   - and, if it begins with "$share/", goes on with a ShareName of at least
//     one character [MQTT-4.8.2-1] that has no wildcard, a '/', and a Topic
//     Filter [MQTT-4.8.2-2].
//
// "$share" without a '/' is an ordinary Topic Filter.
func ParseFilter(s string) (Filter, error) {
	if err := checkText("topic filter", s); err != nil {
		return Filter{}, err
	}
	f := Filter{Pattern: s}
	if rest, ok := strings.CutPrefix(s, sharePrefix); ok {
		var err error
		if f, err = cutShare(rest); err != nil {
			return Filter{}, fmt.Errorf("topic filter %s: %w", excerpt(s), err)
		}
	}
	at := len(s) - len(f.Pattern)
	if err := checkWildcards(f.Pattern, at); err != nil {
		return Filter{}, fmt.Errorf("topic filter %s: %w", excerpt(s), err)
	}
	return f, nil
}

// cutShare parses what follows "$share/".
func cutShare(rest string) (Filter, error) {
	share, pattern, ok := strings.Cut(rest, "/")
	if share == "" {
		return Filter{}, errors.New("empty ShareName: expected $share/<ShareName>/<filter>") // [MQTT-4.8.2-1]
	}
	if i := strings.IndexAny(share, "+#"); i >= 0 { // [MQTT-4.8.2-2]
		return Filter{}, fmt.Errorf("wildcard %q at byte %d in the ShareName: expected none", share[i], len(sharePrefix)+i)
	}
	if !ok || pattern == "" { // [MQTT-4.8.2-2]
		return Filter{}, errors.New("nothing follows the ShareName: expected $share/<ShareName>/<filter>")
	}
	return Filter{Share: share, Pattern: pattern}, nil
}

// checkWildcards checks that each wildcard has a level of its own and that '#'
// ends the pattern. The pattern begins at byte at of the Topic Filter.
func checkWildcards(pattern string, at int) error {
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		if c != '+' && c != '#' {
			continue
		}
		first := i == 0 || pattern[i-1] == '/'
		last := i+1 == len(pattern)
		if c == '#' && (!first || !last) { // [MQTT-4.7.1-1]
			return fmt.Errorf("'#' at byte %d: expected alone in the last level", at+i)
		}
		if c == '+' && (!first || !last && pattern[i+1] != '/') { // [MQTT-4.7.1-2]
			return fmt.Errorf("'+' at byte %d: expected alone in its level", at+i)
		}
	}
	return nil
}

// String returns the Topic Filter in its wire form.
func (f Filter) String() string {
	if f.Share == "" {
		return f.Pattern
	}
	return sharePrefix + f.Share + "/" + f.Pattern
}

// Shared reports whether the Topic Filter is one of a Shared Subscription.
func (f Filter) Shared() bool { return f.Share != "" }

// Wildcards reports whether the Topic Filter has a '+' or '#'; one that has
// none matches a single Topic Name.
func (f Filter) Wildcards() bool { return wild(f.Pattern) }

// Match reports whether the Topic Filter matches the Topic Name, as [Match]
// does. The ShareName plays no part in it.
func (f Filter) Match(name string) bool { return Match(f.Pattern, name) }
