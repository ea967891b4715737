package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Flags are the flags of one command: mosquitto's kind, where a letter has one
// dash and a word two, -h may mean a host, and a flag may take several values.
// Add flags with its methods, in the order of the help, and then call
// [Flags.Parse].
type Flags struct {
	flags []*flag
	group string
}

// flag is one flag under its names.
type flag struct {
	names []string // "-q", "--qos"
	value string   // what the help calls its value; empty: it takes none
	help  string
	group string
	// take sets the flag from the arguments that follow it and says how many of
	// them it used.
	take func(rest []string) (used int, err error)
}

// NewFlags returns an empty set.
func NewFlags() *Flags { return &Flags{} }

// errHelp says that --help was given.
var errHelp = errors.New("help")

// Group begins a group of flags under a heading of the help.
func (f *Flags) Group(heading string) { f.group = heading }

// names are written "q,qos": a letter and a word, or one of them.
func (f *Flags) add(names, value, help string, take func([]string) (int, error)) {
	n := &flag{value: value, help: help, group: f.group, take: take}
	for name := range strings.SplitSeq(names, ",") {
		if len(name) == 1 {
			n.names = append(n.names, "-"+name)
		} else {
			n.names = append(n.names, "--"+name)
		}
	}
	f.flags = append(f.flags, n)
}

// Func adds a flag that takes one value.
func (f *Flags) Func(names, value, help string, set func(string) error) {
	f.add(names, value, help, func(rest []string) (int, error) {
		if len(rest) == 0 {
			return 0, fmt.Errorf("a value is missing: expected %s", value)
		}
		return 1, set(rest[0])
	})
}

// Multi adds a flag that takes several values: take says how many of rest.
func (f *Flags) Multi(names, value, help string, take func(rest []string) (used int, err error)) {
	f.add(names, value, help, take)
}

// Bool adds a flag without a value.
func (f *Flags) Bool(v *bool, names, help string) {
	f.add(names, "", help, func([]string) (int, error) { *v = true; return 0, nil })
}

// String adds a flag with a text.
func (f *Flags) String(v *string, names, value, help string) {
	f.Func(names, value, help, func(s string) error { *v = s; return nil })
}

// OptString adds a flag with a text that may be given empty: v stays nil
// without the flag.
func (f *Flags) OptString(v **string, names, value, help string) {
	f.Func(names, value, help, func(s string) error { *v = &s; return nil })
}

// Strings adds a flag that may be repeated.
func (f *Flags) Strings(v *[]string, names, value, help string) {
	f.Func(names, value, help, func(s string) error { *v = append(*v, s); return nil })
}

// Int adds a flag with a whole number between low and high.
func (f *Flags) Int(v *int, names, value string, low, high int, help string) {
	f.Func(names, value, help, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return fmt.Errorf("%q: expected %s", s, wholeNumber(low, high))
		}
		*v = n
		return nil
	})
}

func wholeNumber(low, high int) string {
	if high == math.MaxInt {
		return fmt.Sprintf("a whole number of %d or more", low)
	}
	return fmt.Sprintf("a whole number from %d to %d", low, high)
}

// Duration adds a flag with a span of time. A bare number counts seconds.
func (f *Flags) Duration(v *time.Duration, names, value, help string) {
	f.Func(names, value, help, func(s string) error {
		d, err := ParseDuration(s)
		if err != nil {
			return err
		}
		*v = d
		return nil
	})
}

// Timeout adds a flag with a span of time in which something has to be done, so
// 0 is refused.
func (f *Flags) Timeout(v *time.Duration, names, value, help string) {
	f.Func(names, value, help, func(s string) error {
		d, err := ParseDuration(s)
		if err != nil || d == 0 {
			return fmt.Errorf("%q: expected a span of time above 0 like 10s or 500ms, or a number of seconds", s)
		}
		*v = d
		return nil
	})
}

// ParseDuration reads "10s", "1m30s" or, in seconds, "10" and "0.5". Negative
// spans are refused.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		var seconds float64
		if seconds, err = strconv.ParseFloat(s, 64); err == nil && seconds < float64(math.MaxInt64)/float64(time.Second) {
			d = time.Duration(seconds * float64(time.Second))
		} else {
			err = strconv.ErrSyntax
		}
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: expected a span of time like 10s or 500ms, or a number of seconds", s)
	}
	return d, nil
}

// Parse sets the flags from args and returns what is no flag, in order. After
// "--" nothing is a flag. Its errors are [UsageError].
func (f *Flags) Parse(args []string) (rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(rest, args...), nil
		case arg == "--help":
			return nil, errHelp
		case arg == "-h" && f.find("-h") == nil:
			return nil, errHelp
		case strings.HasPrefix(arg, "--"):
			args, err = f.long(arg, args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = f.short(arg, args)
		default:
			rest = append(rest, arg)
		}
		if err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// long sets --name, --name value or --name=value.
func (f *Flags) long(arg string, args []string) ([]string, error) {
	name, value, joined := strings.Cut(arg, "=")
	fl := f.find(name)
	if fl == nil {
		return nil, f.unknown(name)
	}
	if !joined {
		return fl.set(name, args)
	}
	if fl.value == "" {
		return nil, Usagef("%s: it takes no value", name)
	}
	if _, err := fl.set(name, []string{value}); err != nil {
		return nil, err
	}
	return args, nil
}

// short sets -q 1, -q1, or several flags without values, -rd.
func (f *Flags) short(arg string, args []string) ([]string, error) {
	for letters := arg[1:]; letters != ""; letters = letters[1:] {
		name := "-" + letters[:1]
		fl := f.find(name)
		if fl == nil {
			return nil, f.unknown(name)
		}
		if fl.value != "" {
			if joined := letters[1:]; joined != "" {
				args = append([]string{joined}, args...)
			}
			return fl.set(name, args)
		}
		if _, err := fl.set(name, nil); err != nil {
			return nil, err
		}
	}
	return args, nil
}

func (fl *flag) set(name string, args []string) ([]string, error) {
	used, err := fl.take(args)
	if err != nil {
		return nil, Usagef("%s: %v", name, err)
	}
	return args[used:], nil
}

func (f *Flags) find(name string) *flag {
	for _, fl := range f.flags {
		for _, n := range fl.names {
			if n == name {
				return fl
			}
		}
	}
	return nil
}

func (f *Flags) unknown(name string) error {
	all := []string{"--help"}
	for _, fl := range f.flags {
		all = append(all, fl.names...)
	}
	return Usagef("unknown flag %s%s", name, didYouMean(name, all))
}
