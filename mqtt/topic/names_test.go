package topic

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// found returns "name=value" of what Match yields, in order.
func found(n *Names[int], pattern string) []string {
	var all []string
	n.Match(pattern, func(name string, v int) bool {
		all = append(all, fmt.Sprint(name, "=", v))
		return true
	})
	slices.Sort(all)
	return all
}

func TestNamesIsAMap(t *testing.T) {
	for round := range 60 {
		r := rand.New(rand.NewPCG(7, uint64(round)))
		kinds, steps := 2+r.IntN(len(levels)-1), 400
		var names Names[int]
		twin := twinNames{}
		for step := range steps {
			name := randomName(r, kinds)
			want, had := twin[name]
			if v, ok := names.Get(name); v != want || ok != had {
				t.Fatalf("Get(%q) = %d, %v, want %d, %v", name, v, ok, want, had)
			}
			if v, ok := names.GetBytes([]byte(name)); v != want || ok != had {
				t.Fatalf("GetBytes(%q) = %d, %v, want %d, %v", name, v, ok, want, had)
			}
			if filling := step < steps/2; filling == (r.IntN(4) > 0) {
				twin[name] = step
				if old, ok := names.Set(name, step); old != want || ok != had {
					t.Fatalf("Set(%q) = %d, %v, want %d, %v", name, old, ok, want, had)
				}
			} else {
				delete(twin, name)
				if old, ok := names.Delete(name); old != want || ok != had {
					t.Fatalf("Delete(%q) = %d, %v, want %d, %v", name, old, ok, want, had)
				}
			}
			names.check(t)
			if pattern := randomPattern(r, kinds); !slices.Equal(found(&names, pattern), twin.match(pattern)) {
				t.Fatalf("Match(%q) = %v, want %v, with %v", pattern, found(&names, pattern), twin.match(pattern), twin)
			}
		}
		emptyNames(t, &names, twin)
	}
}

// emptyNames compares All with the twin, removes everything, and asks that
// nothing be left behind.
func emptyNames(t *testing.T, names *Names[int], twin twinNames) {
	t.Helper()
	all := twinNames{}
	for name, v := range names.All {
		all[name] = v
	}
	if !reflect.DeepEqual(all, twin) || names.Len() != len(twin) {
		t.Fatalf("All yields %v, Len() = %d, want %v", all, names.Len(), twin)
	}
	for name, v := range twin {
		if old, ok := names.Delete(name); !ok || old != v {
			t.Fatalf("Delete(%q) = %d, %v, want %d", name, old, ok, v)
		}
		names.check(t)
	}
	if !reflect.ValueOf(*names).IsZero() {
		t.Fatalf("an emptied Names is not the zero Names: %+v", *names)
	}
}

// All names of up to four levels at once, asked with all filters of up to three.
func TestNamesExhaustively(t *testing.T) {
	var names Names[int]
	twin := twinNames{}
	for i, name := range enumerate([]string{"", "a", "b", "$", "$b"}, 4, CheckName) {
		names.Set(name, i)
		twin[name] = i
	}
	names.check(t)
	patterns := enumerate([]string{"", "a", "b", "$", "z", "+", "#"}, 3, func(s string) error {
		_, err := ParseFilter(s)
		return err
	})
	for _, pattern := range patterns {
		if got, want := found(&names, pattern), twin.match(pattern); !slices.Equal(got, want) {
			t.Errorf("Match(%q) = %v, want %v", pattern, got, want)
		}
	}
}

func TestNamesMatchStops(t *testing.T) {
	var names Names[int]
	for i := range 20 {
		names.Set(fmt.Sprint("a/", i), i)
		names.Set(fmt.Sprint(i), i)
	}
	for _, pattern := range []string{"#", "+", "a/#", "a/+", "+/+"} {
		all := len(found(&names, pattern))
		for stop := range all {
			seen := 0
			names.Match(pattern, func(string, int) bool { seen++; return seen <= stop })
			if seen != stop+1 {
				t.Errorf("Match(%q) went on to name %d after yield returned false at name %d", pattern, seen, stop+1)
			}
		}
	}
}

func TestNamesZero(t *testing.T) {
	var names Names[int]
	for _, pattern := range []string{"a", "#", "+", "a/+", "a/#"} {
		if got := found(&names, pattern); got != nil {
			t.Errorf("Match(%q) = %v, want none", pattern, got)
		}
	}
	if _, ok := names.Delete("a"); ok {
		t.Error("Delete found something")
	}
	names.Set("", 1) // no Topic Name
	names.check(t)
	if names.Len() != 0 {
		t.Errorf("Len() = %d after Set of an empty name, want 0", names.Len())
	}
}

// A pattern costs what it selects: one device of a thousand does not cost a
// thousand, and a wildcard does not look below '$'.
func TestNamesMatchLooksOnlyWhereItMust(t *testing.T) {
	var names Names[int]
	for device := range 1000 {
		for i := range 10 {
			names.Set(fmt.Sprintf("devices/%d/state/%d", device, i), i)
			names.Set(fmt.Sprintf("$SYS/%d/%d", device, i), i)
		}
	}
	for _, test := range []struct {
		pattern        string
		found, visited int // nodes: "devices", "7/state", "3"
	}{
		{"devices/7/#", 10, 1 + 1 + 10},
		{"devices/7/+/3", 1, 1 + 1 + 1},
		{"devices/7/state/+", 10, 1 + 1 + 10},
		{"devices/+/state/3", 1000, 1 + 1000 + 1000},
		{"devices/+/config/3", 0, 1 + 1000},
		{"+/7/state/3", 1, 1 + 1 + 1},
		{"other/#", 0, 0},
		{"+", 0, 1},
		{"#", 10000, 1 + 1000 + 10000},
		{"$SYS/7/#", 10, 1 + 1 + 10},
		{"$SYS/+", 0, 1 + 1000},
	} {
		found := 0
		s := search[int]{pattern: test.pattern, most: 1 << 20, yield: func(string, int) bool { found++; return true }}
		s.run(&names.tree)
		for _, most := range []int{0, test.visited - 1, test.visited, test.visited + 1} {
			seen := 0
			all := names.MatchWithin(test.pattern, most, func(string, int) bool { seen++; return true })
			if want := most >= test.visited || !wild(test.pattern); all != want || all && seen != test.found {
				t.Errorf("MatchWithin(%q, %d) = %v and finds %d names, want %v and %d", test.pattern, most, all, seen, want, test.found)
			}
		}
		if found != test.found || s.visited != test.visited {
			t.Errorf("Match(%q) found %d names and visited %d nodes, want %d and %d", test.pattern, found, s.visited, test.found, test.visited)
		}
	}
}

func TestNamesGetDoesNotAllocate(t *testing.T) {
	var names Names[int]
	names.Set("devices/1/state", 1)
	name := []byte("devices/1/state")
	if n := testing.AllocsPerRun(100, func() { names.GetBytes(name) }); n != 0 {
		t.Errorf("GetBytes allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { names.Get("devices/1/state") }); n != 0 {
		t.Errorf("Get allocates %v times", n)
	}
}

// Names as deep as 65,535 bytes allow are nodes and bytes in proportion to their
// own size, and are found without recursion.
func TestNamesTopicBombs(t *testing.T) {
	deep := slashes(BytesMax)
	all := []string{deep, deep[1:], "a" + deep[1:], deep[1:] + "a", slashes(BytesMax/2) + "b"}
	var names Names[int]
	for i, name := range all {
		names.Set(name, i)
	}
	names.check(t)
	if nodes, labels := names.tree.nodes(); nodes > 2*len(all) || labels > len(all)*BytesMax {
		t.Errorf("%d names are %d nodes with %d bytes", len(all), nodes, labels)
	}
	for pattern, want := range map[string]int{
		"#":                                    5,
		"/#":                                   4,
		strings.Repeat("+/", BytesMax/2) + "#": 5,
		strings.Repeat("+/", BytesMax/2) + "+": 1,
		deep[1:] + "+":                         2,
		deep[1:] + "#":                         3,
	} {
		if got := len(found(&names, pattern)); got != want {
			t.Errorf("Match(%s) found %d names, want %d", excerpt(pattern), got, want)
		}
	}
}

// 4,096 names, one inside the other: a tree as deep as it gets.
func TestNamesDeepChain(t *testing.T) {
	const depth = 4096
	var names Names[int]
	chain := strings.TrimSuffix(strings.Repeat("a/", depth), "/")
	for i := range depth {
		names.Set(chain[:2*i+1], i)
	}
	names.check(t)
	if got := len(found(&names, "#")); got != depth {
		t.Errorf("found %d names, want %d", got, depth)
	}
	if got := len(found(&names, chain[:len(chain)-1]+"#")); got != 2 {
		t.Errorf("found %d names at the end of the chain, want 2", got)
	}
	for i := range depth {
		names.Delete(chain[:2*i+1])
	}
	names.check(t)
}

// Equal histories give equal orders: simulations rely on it.
func TestNamesOrderIsReproducible(t *testing.T) {
	build := func() *Names[int] {
		r := rand.New(rand.NewPCG(1, 2))
		names := &Names[int]{}
		for i := range 2000 {
			names.Set(randomName(r, len(levels)), i)
			names.Delete(randomName(r, len(levels)))
		}
		return names
	}
	order := func(n *Names[int], pattern string) (all []string) {
		n.Match(pattern, func(name string, _ int) bool { all = append(all, name); return true })
		return all
	}
	a, b := build(), build()
	for _, pattern := range []string{"#", "+/+", "a/#", "+/a/#"} {
		if got, want := order(a, pattern), order(b, pattern); !slices.Equal(got, want) {
			t.Errorf("Match(%q) = %v, and %v the second time", pattern, got, want)
		}
	}
}

// FuzzNames runs a script of one operation a line, "+name", "-name" or a filter
// to match, on a Names and on its twin.
func FuzzNames(f *testing.F) {
	f.Add("+a/b\n+a/c\n+a\na/#\n-a\n+/b\n#")
	f.Add("+$SYS/a\n+a/$b\n#\n+/a\n$SYS/#\na/+")
	f.Add("+/\n+//\n+a/\n/#\n+/+\n-//\n#")
	f.Fuzz(func(t *testing.T, script string) {
		var names Names[int]
		twin := twinNames{}
		for i, line := range strings.Split(script, "\n") {
			if line == "" {
				continue
			}
			if name := line[1:]; CheckName(name) == nil {
				want, had := twin[name]
				switch line[0] {
				case '+':
					twin[name] = i
					if old, ok := names.Set(name, i); old != want || ok != had {
						t.Fatalf("Set(%q) = %d, %v, want %d, %v", name, old, ok, want, had)
					}
				case '-':
					delete(twin, name)
					if old, ok := names.Delete(name); old != want || ok != had {
						t.Fatalf("Delete(%q) = %d, %v, want %d, %v", name, old, ok, want, had)
					}
				}
			}
			filter, err := ParseFilter(line)
			if err != nil {
				continue
			}
			if got, want := found(&names, filter.Pattern), twin.match(filter.Pattern); !slices.Equal(got, want) {
				t.Fatalf("Match(%q) = %v, want %v", filter.Pattern, got, want)
			}
		}
		names.check(t)
		emptyNames(t, &names, twin)
	})
}
