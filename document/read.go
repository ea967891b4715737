package document

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Get returns the value of a key of a mapping, nil if it is not there.
func (v *Value) Get(key string) *Value {
	if v.Kind() != Map {
		return nil
	}
	for i, k := range v.keys {
		if k.text == key {
			return v.items[i]
		}
	}
	return nil
}

// Entries yields the keys of a mapping and their values, as they stand. What
// names the mapping in an error: "a mapping of policies". Null has no entries.
func (v *Value) Entries(what string) iter.Seq2[*Value, *Value] {
	return func(yield func(key, value *Value) bool) {
		if !v.is(Map, what) {
			return
		}
		for i, key := range v.keys {
			if !yield(key, v.items[i]) {
				return
			}
		}
	}
}

// is notes an error unless the value is of the kind, or not there.
func (v *Value) is(kind Kind, what string) bool {
	if v == nil || v.kind == Null {
		return false
	}
	if v.kind != kind {
		v.unlike(what)
		return false
	}
	return true
}

// Known notes an error for each key of the mapping that is none of known. It
// names the nearest one.
func (v *Value) Known(what string, known ...string) {
	for key := range v.Entries(what) {
		if !slices.Contains(known, key.text) {
			key.Errorf("found the key %s, expected %s", excerpt(key.text), Suggest(key.text, known))
		}
	}
}

// Items returns the items of a list. What names the list in an error: "a list of
// groups". Null has no items.
func (v *Value) Items(what string) []*Value {
	if !v.is(List, what) {
		return nil
	}
	return v.items
}

// OneOrMore returns the items of a list, or the value itself if it is no list. A
// list without items is an error, because nobody writes one on purpose.
func (v *Value) OneOrMore(what string) []*Value {
	if v == nil {
		return nil
	}
	if v.kind != List {
		return []*Value{v}
	}
	if len(v.items) == 0 {
		v.Errorf("found an empty list, expected %s", what)
	}
	return v.items
}

// Text returns a scalar as it is written, without quotes: a name that looks like
// a number needs none. What says what is expected: "a name".
func (v *Value) Text(what string) (text string, ok bool) {
	if v == nil {
		return "", false
	}
	if v.kind == Null || v.kind == List || v.kind == Map {
		v.unlike(what)
		return "", false
	}
	return v.text, true
}

// Int returns a whole number from least to most.
func (v *Value) Int(least, most int) (n int, ok bool) {
	if v == nil {
		return 0, false
	}
	n, err := strconv.Atoi(v.text)
	if v.kind != Int || err != nil || n < least || n > most {
		v.unlike(fmt.Sprintf("a whole number from %d to %d", least, most))
		return 0, false
	}
	return n, true
}

// Bool returns true or false. Other words for them are errors.
func (v *Value) Bool() (b, ok bool) {
	if v == nil {
		return false, false
	}
	if v.kind != Bool {
		v.unlike("true or false")
		return false, false
	}
	return strings.EqualFold(v.text, "true"), true
}

// Bytes returns a size in bytes: 65536, 64KiB, 8MB.
func (v *Value) Bytes() (n int64, ok bool) {
	if v == nil {
		return 0, false
	}
	if v.kind == Int || v.kind == Text {
		if n, ok = ParseBytes(v.text); ok {
			return n, true
		}
	}
	v.unlike("a size like 65536, 64KiB or 8MB")
	return 0, false
}

// Duration returns a span of time of at least 0: 10s, 5m, 1h30m.
func (v *Value) Duration() (d time.Duration, ok bool) {
	if v == nil {
		return 0, false
	}
	d, err := time.ParseDuration(v.text)
	if err != nil || d < 0 || v.kind == List || v.kind == Map {
		v.unlike("a duration like 10s, 5m or 1h30m")
		return 0, false
	}
	return d, true
}

// units are the units of sizes and what they stand for.
var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

// ParseBytes returns the number of bytes that a size like 65536, 64KiB or 8MB
// stands for.
func ParseBytes(s string) (n int64, ok bool) {
	unit := int64(1)
	for _, u := range units {
		if rest, found := strings.CutSuffix(s, u.name); found {
			s, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	count, err := strconv.ParseUint(s, 10, 63)
	if err != nil || int64(count) > math.MaxInt64/unit {
		return 0, false
	}
	return int64(count) * unit, true
}

// Suggest words what was expected instead of an unknown word: the known word that
// is nearest, or all of them.
func Suggest(word string, known []string) string {
	best, bestAt := "", 1+len(word)/2
	if len(word) <= wordMax {
		for _, k := range known {
			if d := distance(k, word); d < bestAt {
				best, bestAt = k, d
			}
		}
	}
	if best != "" {
		return strconv.Quote(best)
	}
	return "one of " + strings.Join(known, ", ")
}

// wordMax is the longest word that is compared with others, in bytes.
const wordMax = 64

// distance is how many bytes must change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
