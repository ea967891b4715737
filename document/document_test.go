package document

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// dump writes a value with its places: "1:1{a@1:1 1:4=x}".
func dump(v *Value) string {
	at := fmt.Sprintf("%d:%d", v.line, v.column)
	var parts []string
	switch v.Kind() {
	case List:
		for _, item := range v.Items("a list") {
			parts = append(parts, dump(item))
		}
		return at + "[" + strings.Join(parts, " ") + "]"
	case Map:
		for key, item := range v.Entries("a mapping") {
			parts = append(parts, fmt.Sprintf("%s@%d:%d %s", key.text, key.line, key.column, dump(item)))
		}
		return at + "{" + strings.Join(parts, " ") + "}"
	}
	return at + [...]string{"null", "bool", "int", "float", "text"}[v.kind] + "=" + v.text
}

func TestParse(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"f", "", "1:1null="},
		{"f", "# a comment\n", "1:1null="},
		{"f", "a: 1\nb:\n  - -0.5e3\n  - 'x'\n", "1:1{a@1:1 1:4int=1 b@2:1 3:3[3:5float=-0.5e3 4:5text=x]}"},
		{"f", "ä: {b: yes, c: true, d: ~, e: off}", "1:1{ä@1:1 1:4{b@1:5 1:8text=yes c@1:13 1:16bool=true d@1:22 1:25null=~ e@1:28 1:31text=off}}"},
		{"f", "a: '2026-11-22'\nb: \"0o17\"\nc: 1_000\n2: x\ntrue: y\n", "1:1{a@1:1 1:4text=2026-11-22 b@2:1 2:4text=0o17 c@3:1 3:4text=1_000 2@4:1 4:4text=x true@5:1 5:7text=y}"},
		{"f", "--- a\n...\n", "1:5text=a"},
		{"f.json", "", "1:1null="},
		{"f.json", "{\"ä\": [1, -0.5e3,\n true, null, \"\\ud83d\\ude00\"], \"b\": {}}", "1:1{ä@1:2 1:7[1:8int=1 1:11float=-0.5e3 2:2bool=true 2:8null=null 2:14text=😀] b@2:31 2:36{}}"},
		{"f", "{\"a\": [1, null],\n\t\"b\": \"x\\u00e4\"}", "1:1{a@1:2 1:7[1:8int=1 1:11null=null] b@2:2 2:7text=xä}"},
	} {
		v, err := Parse(test.name, []byte(test.text))
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if got := dump(v); got != test.want {
			t.Errorf("%q:\ngot  %s\nwant %s", test.text, got, test.want)
		}
		if err := v.Err(); err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
	}
}

// TestErrors holds the text of each error that Parse can find.
func TestErrors(t *testing.T) {
	deep := strings.Repeat("[", DepthMax+1) + strings.Repeat("]", DepthMax+1)
	bomb := "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
	for _, test := range []struct{ name, text, want string }{
		{"f", "a: 1\nb: 2\na: 3\n", `f:3:1: found the key "a" twice, first in line 1, expected it once`},
		{"f", "{a: 1, 'a': 3}\n", `f:1:8: found the key "a" twice, first in line 1, expected it once`},
		{"f", bomb, `f:1:4: found the anchor &a, expected a value: anchors are not used here`},
		{"f", "a: *b\n", "f:1:1: not YAML on or next to this line: unknown anchor 'b' referenced"},
		{"f", "a: &b x\nc: *b\n", `f:1:4: found the anchor &b, expected a value: anchors are not used here; a text that begins with "&" needs quotes
f:2:4: found the alias *b, expected a value: aliases are not used here; a text that begins with "*" needs quotes`},
		{"f", "<<: {a: 1}\n", "f:1:1: found the merge key <<"},
		{"f", "a: !!str 5\n", `f:1:4: found the tag !!str, expected a value: tags are not used here`},
		{"f", "a: !x [5]\n", `f:1:4: found the tag !x, expected a value`},
		{"f", "a: 2026-11-22\n", `f:1:4: found the date "2026-11-22", expected text or a number: put it in quotes`},
		{"f", "a: 2026-11-22 10:00:00\n", `f:1:4: found the date "2026-11-22 10:00:00"`},
		{"f", "a: 017\n", `f:1:4: found "017", which not every reader of YAML takes for the same number`},
		{"f", "a: 0o17\n", `f:1:4: found "0o17"`},
		{"f", "a: 0x1F\n", `f:1:4: found "0x1F"`},
		{"f", "a: 0b1\n", `f:1:4: found "0b1"`},
		{"f", "a: +5\n", `f:1:4: found "+5"`},
		{"f", "a: .5\n", `f:1:4: found ".5"`},
		{"f", "a: .inf\n", `f:1:4: found ".inf"`},
		{"f", "a: .NaN\n", `f:1:4: found ".NaN"`},
		{"f", "? [a]\n: b\n", "f:1:3: found a list for a key, expected a word"},
		{"f", "~: b\n", "f:1:1: found ~ for a key, expected a word"},
		{"f", "a: 1\n---\nb: 2\n", "f:2:1: found a second document, expected one"},
		{"f", "a: 1\n---\n[\n", "f:3:1: not YAML on or next to this line: did not find expected node content"},
		{"f", "a:\n\t- b\n", "f:2:1: not YAML on or next to this line: found character that cannot start any token"},
		{"f", "a: {b}: c\n", "f:1:1: not YAML on or next to this line: "},
		{"f", "ä: \xff\n", "f:1:4: found the byte 0xFF, expected UTF-8"},
		{"f", "a: \x00\n", "f:1:1: not YAML on or next to this line: control characters are not allowed"},
		{"f", deep, "f:1:65: found more than 64 mappings and lists within each other, expected fewer"},
		{"f", strings.Repeat("x", BytesMax+1), "f:1:1: found 1048577 bytes, expected at most 1048576"},
		{"f", "[" + strings.Repeat("1,", ValuesMax) + "]", "f:1:400000: found more than 200000 values in the document, expected fewer"},
		{"f", "a: 017\nb: 2026-11-22\n", "f:1:4: found \"017\", which not every reader of YAML takes for the same number, expected one like 10 or -1.5: put it in quotes if it is text\nf:2:4: found the date"},
		{"f.json", "{\"a\": 1,\n \"b\": x}", "f.json:2:7: this is not JSON: invalid character 'x' looking for beginning of value"},
		{"f.json", "{\"a\": 1", "f.json:1:7: this is not JSON: unexpected end of JSON input"},
		{"f.json", "{} {}", "f.json:1:4: this is not JSON: invalid character '{' after top-level value"},
		{"f.json", "{\"a\": 1,\n \"a\": 2}", `f.json:2:2: found the key "a" twice, first in line 1, expected it once`},
		{"f.json", deep, "f.json:1:65: found more than 64 mappings and lists within each other, expected fewer"},
		{"f.json", "[" + strings.Repeat("1,", ValuesMax) + "1]", "f.json:1:400000: found more than 200000 values in the document, expected fewer"},
		{"f.json", "a: 1", "f.json:1:1: this is not JSON: invalid character 'a' looking for beginning of value"},
	} {
		_, err := Parse(test.name, []byte(test.text))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%.60q:\ngot  %v\nwant %s", test.text, err, test.want)
		}
	}
}

// TestReading holds the text of each error that reading a value can find.
func TestReading(t *testing.T) {
	const text = `text: x
number: 12
float: 1.5
yes: true
none:
list: [a, b]
empty: []
map: {k: v}
variable: {device}
hash: #
size: 64KiB
time: 1h30m
`
	for _, test := range []struct {
		read func(v *Value)
		want string
	}{
		{func(v *Value) { v.Get("list").Text("a name") }, "f:6:7: found a list, expected a name"},
		{func(v *Value) { v.Get("map").Text("a name") }, "f:8:6: found a mapping, expected a name"},
		{func(v *Value) { v.Get("variable").Text("a topic") }, `f:9:11: found a mapping, expected a topic (a text that begins with "{" needs quotes)`},
		{func(v *Value) { v.Get("hash").Text("a topic") }, `f:10:6: found nothing, expected a topic (a text that begins with "#" needs quotes)`},
		{func(v *Value) { v.Get("number").Int(0, 11) }, "f:2:9: found 12, expected a whole number from 0 to 11"},
		{func(v *Value) { v.Get("float").Int(0, 11) }, "f:3:8: found 1.5, expected a whole number from 0 to 11"},
		{func(v *Value) { v.Get("text").Int(0, 11) }, "f:1:7: found x, expected a whole number from 0 to 11"},
		{func(v *Value) { v.Get("text").Bool() }, "f:1:7: found x, expected true or false"},
		{func(v *Value) { v.Get("float").Bytes() }, "f:3:8: found 1.5, expected a size like 65536, 64KiB or 8MB"},
		{func(v *Value) { v.Get("time").Bytes() }, "f:12:7: found 1h30m, expected a size like 65536, 64KiB or 8MB"},
		{func(v *Value) { v.Get("size").Duration() }, "f:11:7: found 64KiB, expected a duration like 10s, 5m or 1h30m"},
		{func(v *Value) { v.Get("list").Duration() }, "f:6:7: found a list, expected a duration like 10s, 5m or 1h30m"},
		{func(v *Value) { v.Get("text").Items("a list of names") }, "f:1:7: found x, expected a list of names"},
		{func(v *Value) { v.Get("empty").OneOrMore("a name") }, "f:7:8: found an empty list, expected a name"},
		{func(v *Value) { v.Get("list").Known("a rule", "a") }, "f:6:7: found a list, expected a rule"},
		{func(v *Value) { v.Get("map").Known("a rule", "kk", "zzz") }, `f:8:7: found the key "k", expected one of kk, zzz`},
		{func(v *Value) { v.Get("map").Known("a rule", "k") }, ""},
		{func(v *Value) { v.Get("none").Known("a rule", "k"); v.Get("none").Items("a list") }, ""},
		{func(v *Value) { v.Get("not there").Errorf("never"); v.Get("list").Get("x").Errorf("never") }, ""},
	} {
		v, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		test.read(v)
		got := ""
		if err := v.Err(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestValues(t *testing.T) {
	v, err := Parse("f", []byte("a: 1.10\nb: 7\nc: True\nd: 64 KiB\ne: 1h30m\nf: x\ng: [x, y]\nh: 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := v.Get("a").Text("text"); text != "1.10" || !ok {
		t.Errorf("Text = %q, %v", text, ok)
	}
	if n, ok := v.Get("b").Int(7, 7); n != 7 || !ok {
		t.Errorf("Int = %d, %v", n, ok)
	}
	if b, ok := v.Get("c").Bool(); !b || !ok {
		t.Errorf("Bool = %v, %v", b, ok)
	}
	if n, ok := v.Get("d").Bytes(); n != 65536 || !ok {
		t.Errorf("Bytes = %d, %v", n, ok)
	}
	if n, ok := v.Get("b").Bytes(); n != 7 || !ok {
		t.Errorf("Bytes = %d, %v", n, ok)
	}
	if d, ok := v.Get("e").Duration(); d != 90*time.Minute || !ok {
		t.Errorf("Duration = %v, %v", d, ok)
	}
	if d, ok := v.Get("h").Duration(); d != 0 || !ok {
		t.Errorf("Duration of 0 = %v, %v", d, ok)
	}
	if one, two := v.Get("f").OneOrMore("x"), v.Get("g").OneOrMore("x"); len(one) != 1 || len(two) != 2 {
		t.Errorf("OneOrMore = %d and %d values, want 1 and 2", len(one), len(two))
	}
	if err := v.Err(); err != nil {
		t.Error(err)
	}
}

// TestAbsent shows that a value that is not there reads as nothing.
func TestAbsent(t *testing.T) {
	var v *Value
	_, text := v.Text("x")
	_, number := v.Int(0, 1)
	_, truth := v.Bool()
	_, size := v.Bytes()
	_, span := v.Duration()
	if text || number || truth || size || span || v.Items("x") != nil || v.OneOrMore("x") != nil || v.Get("x") != nil {
		t.Error("a nil value reads as something")
	}
	if v.Err() != nil || v.Kind() != Null || v.Place() != (Place{}) {
		t.Errorf("a nil value has error %v, kind %v, place %v", v.Err(), v.Kind(), v.Place())
	}
}

// TestManyErrors lists twenty errors and counts the rest.
func TestManyErrors(t *testing.T) {
	_, err := Parse("f", []byte(strings.Repeat("- 017\n", 23)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 21 || !strings.HasPrefix(lines[19], "f:20:3: ") || lines[20] != "f: and 3 more errors" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	var at *Error
	if !errors.As(err, &at) || at.Place != (Place{"f", 1, 3}) {
		t.Errorf("the first error is %v", at)
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "12": 12, "1KiB": 1024, "2 MiB": 2 << 20, "1kB": 1000, "3GB": 3e9, "5B": 5,
		"9223372036854775807": math.MaxInt64, "-1": -1, "+1": -1, "": -1, "KiB": -1, "1.5MB": -1, "9223372036854775807GiB": -1, "1_000": -1} {
		got, ok := ParseBytes(in)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", in, got, ok, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"allow", "deny", "limits"}
	for word, want := range map[string]string{"alow": `"allow"`, "limit": `"limits"`, "zzz": "one of allow, deny, limits",
		strings.Repeat("allow", 20): "one of allow, deny, limits"} {
		if got := Suggest(word, known); got != want {
			t.Errorf("Suggest(%q) = %s, want %s", word, got, want)
		}
	}
}

// FuzzParse wants a value or an error with a place from any text, and equal
// values from a JSON text whether it is read as JSON or as YAML.
func FuzzParse(f *testing.F) {
	f.Add("a: 1\nb: [x, {c: d}]\n")
	f.Add("a: &a [*a]\n")
	f.Add("? [x]\n: y\n<<: z\n")
	f.Add(`{"a": [1, -2.5e3, true, null, "xä"], "b": {"c": ""}}`)
	f.Add("--- |\n a\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := Parse("f", []byte(text))
		if err != nil {
			checkPlaces(t, text, err)
		}
		j, err := Parse("f.json", []byte(text))
		if err != nil {
			checkPlaces(t, text, err)
		}
		if v == nil || j == nil || strings.ContainsAny(text, "\r\u0085\u2028\u2029\ufeff") {
			return // JSON has one line break, and YAML four more
		}
		if got, want := dump(v), dump(j); got != want {
			t.Errorf("as YAML and as JSON %q is\n%s\n%s", text, got, want)
		}
	})
}

// checkPlaces wants each error to stand in the text, or at its end.
func checkPlaces(t *testing.T, text string, err error) {
	t.Helper()
	lines := 2 + strings.Count(strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text), "\n")
	var at *Error
	if !errors.As(err, &at) || at.Place.Line < 1 || at.Place.Line > lines || at.Place.Column < 1 {
		t.Errorf("%q: %v: no place in %d lines", text, err, lines)
	}
}
