package topic

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	long := strings.Repeat("x", BytesMax)
	for _, test := range []struct{ name, want string }{
		{"a", ""},
		{"/", ""},
		{"//", ""},
		{"a//b", ""},
		{"a b/c", ""},
		{"$SYS/broker", ""},
		{"$share/g/a", ""}, // $share means something in Topic Filters only
		{"温度/é", ""},
		{"a/\uFFFD", ""},
		{"\uFEFFa", ""},
		{long, ""},
		{strings.Repeat("/", BytesMax), ""},
		{"", "topic name is empty: expected at least one character"},
		{"+", `topic name "+": wildcard '+' at byte 0: wildcards belong in topic filters only`},
		{"a/b#", `topic name "a/b#": wildcard '#' at byte 3: wildcards belong in topic filters only`},
		{"a/\x00", `topic name "a/\x00": character U+0000 at byte 2 is not allowed`},
		{"é/\xff", `topic name "é/\xff" is not valid UTF-8 at byte 3`},
		{"\uFFFD\xed\xa0\x80", "topic name \"\uFFFD\\xed\\xa0\\x80\" is not valid UTF-8 at byte 3"}, // a surrogate
		{long + "x", `topic name "` + long[:excerptMax] + `"... has 65536 bytes: expected at most 65535`},
	} {
		if got := text(CheckName(test.name)); got != test.want {
			t.Errorf("CheckName(%s) = %q, want %q", excerpt(test.name), got, test.want)
		}
	}
}

// text returns the text of err, or "" if there is none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParseFilter(t *testing.T) {
	long := strings.Repeat("x", BytesMax)
	for _, test := range []struct{ in, share, pattern string }{
		{"a", "", "a"},
		{"/", "", "/"},
		{"#", "", "#"},
		{"+", "", "+"},
		{"+/+", "", "+/+"},
		{"/+", "", "/+"},
		{"+/", "", "+/"},
		{"/#", "", "/#"},
		{"a/+/b/#", "", "a/+/b/#"},
		{"$SYS/#", "", "$SYS/#"},
		{"$share", "", "$share"},
		{"$shared/a", "", "$shared/a"},
		{"$SHARE/a", "", "$SHARE/a"},
		{"x/$share/g/a", "", "x/$share/g/a"},
		{"$share/g/a", "g", "a"},
		{"$share/g//finance", "g", "/finance"},
		{"$share/g/#", "g", "#"},
		{"$share/g/+/b", "g", "+/b"},
		{"$share/$g/$SYS/#", "$g", "$SYS/#"},
		{"$share/温 度/$share/h/a", "温 度", "$share/h/a"},
		{long, "", long},
	} {
		f, err := ParseFilter(test.in)
		if err != nil || f != (Filter{test.share, test.pattern}) {
			t.Errorf("ParseFilter(%s) = %+v, %v, want share %q, pattern %s", excerpt(test.in), f, err, test.share, excerpt(test.pattern))
		}
		if got := f.String(); got != test.in {
			t.Errorf("ParseFilter(%s).String() = %s", excerpt(test.in), excerpt(got))
		}
		if got, want := f.Shared(), test.share != ""; got != want {
			t.Errorf("ParseFilter(%s).Shared() = %v, want %v", excerpt(test.in), got, want)
		}
		if got, want := f.Wildcards(), strings.ContainsAny(test.pattern, "+#"); got != want {
			t.Errorf("ParseFilter(%s).Wildcards() = %v, want %v", excerpt(test.in), got, want)
		}
	}
}

func TestParseFilterErrors(t *testing.T) {
	long := strings.Repeat("x", BytesMax+1)
	const share = ": expected $share/<ShareName>/<filter>"
	for in, want := range map[string]string{
		"":             "topic filter is empty: expected at least one character",
		"a/\x00":       `topic filter "a/\x00": character U+0000 at byte 2 is not allowed`,
		"a\x80":        `topic filter "a\x80" is not valid UTF-8 at byte 1`,
		long:           `topic filter "` + long[:excerptMax] + `"... has 65536 bytes: expected at most 65535`,
		"a#":           `topic filter "a#": '#' at byte 1: expected alone in the last level`,
		"#a":           `topic filter "#a": '#' at byte 0: expected alone in the last level`,
		"a/#/":         `topic filter "a/#/": '#' at byte 2: expected alone in the last level`,
		"a/#/b":        `topic filter "a/#/b": '#' at byte 2: expected alone in the last level`,
		"##":           `topic filter "##": '#' at byte 0: expected alone in the last level`,
		"+#":           `topic filter "+#": '+' at byte 0: expected alone in its level`,
		"a+":           `topic filter "a+": '+' at byte 1: expected alone in its level`,
		"a/+b/c":       `topic filter "a/+b/c": '+' at byte 2: expected alone in its level`,
		"++":           `topic filter "++": '+' at byte 0: expected alone in its level`,
		"$share/":      `topic filter "$share/": empty ShareName` + share,
		"$share//a":    `topic filter "$share//a": empty ShareName` + share,
		"$share/g":     `topic filter "$share/g": nothing follows the ShareName` + share,
		"$share/g/":    `topic filter "$share/g/": nothing follows the ShareName` + share,
		"$share/#":     `topic filter "$share/#": wildcard '#' at byte 7 in the ShareName: expected none`,
		"$share/g+/a":  `topic filter "$share/g+/a": wildcard '+' at byte 8 in the ShareName: expected none`,
		"$share/g/a/b": "",
		"$share/g/a#":  `topic filter "$share/g/a#": '#' at byte 10: expected alone in the last level`,
	} {
		f, err := ParseFilter(in)
		if got := text(err); got != want {
			t.Errorf("ParseFilter(%s) = %q, want %q", excerpt(in), got, want)
		}
		if err != nil && f != (Filter{}) {
			t.Errorf("ParseFilter(%s) = %+v with an error", excerpt(in), f)
		}
	}
}

// The standard's own examples, sections 4.7.1 and 4.7.2, and the edges.
func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player10", false},
		{"sport/#", "sport", true},
		{"#", "sport/tennis", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/monitor", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/monitor", true},
		{"$SYS/#", "$SYS", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/+", "a/$b", true},
		{"a/#", "a/$b/$c", true},
		{"$SYS", "$SYS", true},
		{"+", "$", false},
		{"ACCOUNTS", "Accounts", false},
		{"e\u0301", "\u00e9", false}, // no normalization [MQTT-4.7.3-4]
		{"/", "/", true},
		{"/", "//", false},
		{"//", "/", false},
		{"+/+/+", "//", true},
		{"a/", "a", false},
		{"a", "a/", false},
		{"/a", "a", false},
		{"a//b", "a/b", false},
		{"a/+/b", "a//b", true},
		{"/#", "/", true},
		{"/#", "a", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/", true},
	} {
		if got := Match(test.pattern, test.name); got != test.want {
			t.Errorf("Match(%q, %q) = %v, want %v", test.pattern, test.name, got, test.want)
		}
		f, err := ParseFilter("$share/g/" + test.pattern)
		if got := f.Match(test.name); err != nil || got != test.want {
			t.Errorf("%v matches %q = %v, %v, want %v", f, test.name, got, err, test.want)
		}
	}
}

// Whatever filters of up to three levels can say about each other and about
// names is compared with what the names themselves say. One level more than the
// filters have, and one letter that no filter has, tell them all apart.
func TestRelationsExhaustively(t *testing.T) {
	patterns := enumerate([]string{"", "a", "b", "$", "+", "#"}, 3, func(s string) error {
		_, err := ParseFilter(s)
		return err
	})
	names := enumerate([]string{"", "a", "b", "$", "z"}, 4, CheckName)
	matches := make([][]bool, len(patterns)) // by pattern and name
	for i, p := range patterns {
		matches[i] = make([]bool, len(names))
		for j, n := range names {
			matches[i][j] = twinMatch(p, n)
			if got := Match(p, n); got != matches[i][j] {
				t.Fatalf("Match(%q, %q) = %v, want %v", p, n, got, matches[i][j])
			}
		}
	}
	for i, a := range patterns {
		for j, b := range patterns {
			overlap, contains := relations(matches[i], matches[j])
			if got := Overlap(a, b); got != overlap {
				t.Errorf("Overlap(%q, %q) = %v, want %v", a, b, got, overlap)
			}
			if got := Contains(a, b); got != contains {
				t.Errorf("Contains(%q, %q) = %v, want %v", a, b, got, contains)
			}
		}
	}
	t.Logf("%d filters, %d names", len(patterns), len(names))
}

// relations compares the names that two filters match.
func relations(a, b []bool) (overlap, contains bool) {
	contains = true
	for i := range a {
		overlap = overlap || a[i] && b[i]
		contains = contains && (a[i] || !b[i])
	}
	return overlap, contains
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"a", "", "#", "+/+", "a/#", "$share/g/a/+", "$share//a", "$share/g/", "a/\x00", "a\xff", "/+/#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		filter, err := ParseFilter(s)
		if err != nil {
			if filter != (Filter{}) {
				t.Errorf("ParseFilter(%q) = %+v with error %v", s, filter, err)
			}
			return
		}
		if got := filter.String(); got != s {
			t.Errorf("ParseFilter(%q).String() = %q", s, got)
		}
		if _, err := ParseFilter(filter.Pattern); err != nil && !strings.HasPrefix(filter.Pattern, sharePrefix) {
			t.Errorf("ParseFilter(%q) has an invalid pattern: %v", s, err)
		}
		if isName := CheckName(filter.Pattern) == nil; isName == filter.Wildcards() {
			t.Errorf("%q: valid as a name = %v, has wildcards = %v", s, isName, filter.Wildcards())
		}
		// A filter, its wildcards taken as text of their own, is a name that it matches.
		name := strings.NewReplacer("+", "x", "#", "x/y").Replace(filter.Pattern)
		if !filter.Match(name) {
			t.Errorf("%q does not match %q", s, name)
		}
		if !Contains(filter.Pattern, name) || !Overlap(filter.Pattern, name) {
			t.Errorf("%q does not contain or overlap %q, which it matches", s, name)
		}
	})
}
