package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// The twins are what the package promises, written as simply as can be and
// without looking at how the package does it.

// twinMatch is the standard's section 4.7 word for word.
func twinMatch(pattern, name string) bool {
	if strings.HasPrefix(name, "$") && strings.ContainsRune("+#", rune(pattern[0])) {
		return false
	}
	return twinLevels(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func twinLevels(pattern, name []string) bool {
	if len(pattern) > 0 && pattern[0] == "#" {
		return true // also without any level left: the parent
	}
	if len(pattern) == 0 || len(name) == 0 {
		return len(pattern) == len(name)
	}
	return (pattern[0] == "+" || pattern[0] == name[0]) && twinLevels(pattern[1:], name[1:])
}

// twinTrie is a Trie as a list.
type twinTrie []twinEntry

type twinEntry struct {
	pattern string
	key, v  int
}

func (t *twinTrie) find(pattern string, key int) int {
	return slices.IndexFunc(*t, func(e twinEntry) bool { return e.pattern == pattern && e.key == key })
}

func (t *twinTrie) set(pattern string, key, v int) (old int, replaced bool) {
	if i := t.find(pattern, key); i >= 0 {
		old, (*t)[i].v = (*t)[i].v, v
		return old, true
	}
	*t = append(*t, twinEntry{pattern, key, v})
	return 0, false
}

func (t *twinTrie) delete(pattern string, key int) (old int, ok bool) {
	i := t.find(pattern, key)
	if i < 0 {
		return 0, false
	}
	old = (*t)[i].v
	*t = slices.Delete(*t, i, i+1)
	return old, true
}

// match returns the values of the matching filters in order.
func (t *twinTrie) match(name string) []int {
	var vs []int
	for _, e := range *t {
		if twinMatch(e.pattern, name) {
			vs = append(vs, e.v)
		}
	}
	slices.Sort(vs)
	return vs
}

// twinNames is a Names as a map.
type twinNames map[string]int

// match returns "name=value" of each name that matches, in order.
func (t twinNames) match(pattern string) []string {
	var found []string
	for name, v := range t {
		if twinMatch(pattern, name) {
			found = append(found, fmt.Sprint(name, "=", v))
		}
	}
	slices.Sort(found)
	return found
}

// levels are few, so that random names and filters meet; among them are the
// empty level, '$' and text beyond ASCII.
var levels = []string{"", "a", "b", "ab", "$", "$SYS", "é", "温度", "c", "d", "e", "f", "g", "h", "i"}

// randomName returns a valid Topic Name. Small kinds keep to the first levels.
func randomName(r *rand.Rand, kinds int) string {
	for {
		name := randomPath(r, 1+r.IntN(5), func() string { return levels[r.IntN(kinds)] })
		if name != "" {
			return name
		}
	}
}

// randomPattern returns a valid Topic Filter.
func randomPattern(r *rand.Rand, kinds int) string {
	for {
		pattern := randomPath(r, r.IntN(5), func() string {
			if r.IntN(3) == 0 {
				return "+"
			}
			return levels[r.IntN(kinds)]
		})
		switch {
		case r.IntN(3) > 0 && pattern != "":
			return pattern
		case r.IntN(2) == 0:
			return strings.TrimPrefix(pattern+"/#", "/")
		case pattern != "":
			return pattern + "/#"
		}
	}
}

func randomPath(r *rand.Rand, n int, level func() string) string {
	path := make([]string, n)
	for i := range path {
		path[i] = level()
	}
	return strings.Join(path, "/")
}

// enumerate returns all paths of one to depth levels that valid accepts.
func enumerate(levels []string, depth int, valid func(string) error) []string {
	all := map[string]bool{}
	for now := []string{""}; depth > 0; depth-- {
		var next []string
		for _, prefix := range now {
			for _, level := range levels {
				next = append(next, prefix+level)
			}
		}
		now = nil
		for _, path := range next {
			if valid(path) == nil {
				all[path] = true
			}
			now = append(now, path+"/")
		}
	}
	return slices.Sorted(maps.Keys(all))
}
