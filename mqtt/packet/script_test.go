package packet

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"fairlead/mqtt"
)

var rewrite = flag.Bool("rewrite", false, "write what the Reader finds into testdata")

// A step is one case of a script in testdata:
//
//	decode v=5 max=100
//	30 [ "a" [ 01 01 ] 'hello' ]
//	----
//	PUBLISH Topic="a" Properties="\x01\x01" Payload="hello"
//
// Pairs of digits are bytes, "text" is a UTF-8 Encoded String with its length in
// front, 'text' stands for its bytes alone, and [ … ] for a Variable Byte Integer
// with the length of what is in the brackets, and that. Below the line stands
// each packet or the error; "appended as" if the packet has a shorter or other
// form in which we write it.
type step struct {
	comment, options, input, want string

	v     mqtt.Version
	max   int
	bytes []byte
}

// steps reads a script.
func steps(t testing.TB, file string) []step {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []step
	for _, part := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		var s step
		for strings.HasPrefix(part, "#") {
			line, rest, _ := strings.Cut(part, "\n")
			s.comment += line + "\n"
			part = rest
		}
		head, want, _ := strings.Cut(part, "\n----")
		s.want = strings.TrimSpace(want)
		s.options, s.input, _ = strings.Cut(head, "\n")
		if part != "" {
			if err := s.parse(); err != nil {
				t.Fatalf("%s: %s: %v", file, head, err)
			}
		}
		out = append(out, s)
	}
	return out
}

// parse understands the options and the bytes of a step.
func (s *step) parse() error {
	words := strings.Fields(s.options)
	if len(words) == 0 || words[0] != "decode" {
		return fmt.Errorf("unknown command %q", s.options)
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "v":
			v, ok := map[string]mqtt.Version{"0": 0, "3.1": mqtt.V31, "3.1.1": mqtt.V311, "5": mqtt.V5}[value]
			if !ok {
				return fmt.Errorf("unknown version %q", value)
			}
			s.v = v
		case "max":
			n, err := strconv.Atoi(value)
			if err != nil {
				return err
			}
			s.max = n
		default:
			return fmt.Errorf("unknown option %q", w)
		}
	}
	b, rest, err := wire(s.input)
	if err == nil && rest != "" {
		err = fmt.Errorf("unexpected %q", rest)
	}
	s.bytes = b
	return err
}

// wire reads bytes up to the end of text or a closing bracket, which it leaves.
func wire(text string) (b []byte, rest string, err error) {
	for {
		text = strings.TrimLeft(text, " \n\t")
		if text == "" || text[0] == ']' {
			return b, text, nil
		}
		switch c := text[0]; c {
		case '[':
			inner, rest, err := wire(text[1:])
			if err != nil {
				return nil, "", err
			}
			if !strings.HasPrefix(rest, "]") {
				return nil, "", errors.New("[ without ]")
			}
			b = append(appendVarint(b, len(inner)), inner...)
			text = rest[1:]
		case '"', '\'':
			inner, rest, ok := strings.Cut(text[1:], string(c))
			if !ok {
				return nil, "", fmt.Errorf("%c without its end", c)
			}
			if c == '"' {
				b = append(b, byte(len(inner)>>8), byte(len(inner)))
			}
			b, text = append(b, inner...), rest
		default:
			if len(text) < 2 {
				return nil, "", fmt.Errorf("half a byte: %q", text)
			}
			n, err := strconv.ParseUint(text[:2], 16, 8)
			if err != nil {
				return nil, "", err
			}
			b, text = append(b, byte(n)), text[2:]
		}
	}
}

// TestScripts plays the scripts in testdata.
func TestScripts(t *testing.T) {
	for _, file := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { play(t, file) })
	}
}

func scripts(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts in testdata: %v, %v", files, err)
	}
	return files
}

func play(t *testing.T, file string) {
	var out strings.Builder
	for _, s := range steps(t, file) {
		out.WriteString(s.comment)
		if s.input != "" {
			got := s.run()
			if !*rewrite && got != s.want {
				t.Errorf("%s%s\n%s\ngot:\n%s\nwant:\n%s", s.comment, s.options, s.input, got, s.want)
			}
			fmt.Fprintf(&out, "%s\n%s\n----\n%s\n", s.options, s.input, got)
		}
		out.WriteString("\n")
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// run reads the bytes of a step, and writes each packet once more.
func (s *step) run() string {
	r := Reader{Version: s.v, MaxBytes: s.max}
	var out []string
	if _, err := r.Fill(bytes.NewReader(s.bytes)); err != nil {
		return err.Error()
	}
	for r.Buffered() > 0 {
		before := r.Buffered()
		p, err := r.Next()
		if err != nil {
			return strings.Join(append(out, describeError(err)), "\n")
		}
		out = append(out, describe(p))
		at := len(s.bytes) - before
		b, err := Append(nil, r.Version, p)
		if err != nil {
			out = append(out, "  "+err.Error())
		} else if !bytes.Equal(b, s.bytes[at:len(s.bytes)-r.Buffered()]) {
			out = append(out, fmt.Sprintf("  appended as % x", b))
		}
	}
	return strings.Join(out, "\n")
}

func describeError(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	s := fmt.Sprintf("%v at %d: %s", e.Reason, e.At, e.What)
	if e.Level != 0 {
		s += fmt.Sprintf(" (level %d)", e.Level)
	}
	return s
}

// describe writes a packet's name and those of its fields that are not zero.
func describe(p Packet) string {
	return strings.TrimSpace(p.Type().String() + " " + fields(reflect.ValueOf(p).Elem()))
}

func fields(v reflect.Value) string {
	var out []string
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		name := v.Type().Field(i).Name
		if set, ok := f.Interface().(PropertySet); ok {
			out = append(out, "Set="+setOf(set))
			continue
		}
		out = append(out, name+"="+value(f))
	}
	return strings.Join(out, " ")
}

// setOf writes the identifiers of a set in hexadecimal.
func setOf(set PropertySet) string {
	var ids []string
	for id := range 64 {
		if set&(1<<id) != 0 {
			ids = append(ids, strconv.FormatInt(int64(id), 16))
		}
	}
	return "[" + strings.Join(ids, " ") + "]"
}

func value(f reflect.Value) string {
	switch f.Kind() {
	case reflect.Bool:
		return "true"
	case reflect.String:
		return strconv.Quote(f.String())
	case reflect.Pointer:
		return "{" + fields(f.Elem()) + "}"
	case reflect.Struct:
		return "{" + fields(f) + "}"
	case reflect.Slice:
		if f.Type().Elem() == reflect.TypeFor[byte]() {
			return fmt.Sprintf("%q", f.Bytes())
		}
		out := make([]string, f.Len())
		for i := range out {
			out[i] = value(f.Index(i))
		}
		return "[" + strings.Join(out, " ") + "]"
	}
	if r, ok := f.Interface().(mqtt.ReasonCode); ok {
		return fmt.Sprintf("0x%02X", byte(r))
	}
	return strconv.FormatUint(f.Uint(), 10)
}
