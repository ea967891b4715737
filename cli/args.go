package cli

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// One is the one argument of a command, which the help calls what.
func One(args []string, what string) (string, error) {
	if len(args) != 1 {
		return "", Usagef("expected one %s, got %d arguments", what, len(args))
	}
	return args[0], nil
}

// Pairs adds a flag that takes KEY=VALUE and may be repeated, with another key each time.
func (f *Flags) Pairs(v *map[string]string, names, help string) {
	f.Func(names, "KEY=VALUE", help, func(s string) error {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q: expected KEY=VALUE", s)
		}
		if _, twice := (*v)[key]; twice {
			return fmt.Errorf("%s: given twice", key)
		}
		if *v == nil {
			*v = make(map[string]string)
		}
		(*v)[key] = value
		return nil
	})
}

// OneOf adds a flag that takes one of some words.
func (f *Flags) OneOf(v *string, names, value, help string, words ...string) {
	f.Func(names, value, help, func(s string) error {
		for _, w := range words {
			if s == w {
				*v = s
				return nil
			}
		}
		return fmt.Errorf("%q: expected %s or %s", s, strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
	})
}

// Past adds a flag that takes a time that has been: see [ParsePast].
func (f *Flags) Past(v *time.Time, names, value, help string) {
	f.Func(names, value, help, func(s string) (err error) {
		*v, err = ParsePast(s, time.Now())
		return err
	})
}

// timeLayouts are the ways to write a time, without a zone meant as local.
var timeLayouts = []string{time.RFC3339, time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly}

// ParseTime reads "2026-11-25", "2026-11-25 12:00", "2026-11-25T12:00:00Z" and the like.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: expected a time like 2026-11-25, \"2026-11-25 12:00\" or 2026-11-25T12:00:00Z", s)
}

// ParsePast reads what [ParseTime] does, or how long before now it was: "2h", "7d".
func ParsePast(s string, now time.Time) (time.Time, error) {
	if d, err := ParseDays(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := ParseTime(s)
	if err != nil {
		return t, fmt.Errorf("%q: expected a time like 2026-11-25, \"2026-11-25 12:00\" or 2026-11-25T12:00:00Z, or a span like 2h or 7d", s)
	}
	return t, nil
}

// daysMax is how many days a Duration has room for.
const daysMax = int64(math.MaxInt64 / (24 * time.Hour))

// ParseDays reads a span with a unit, like "90m" and "12h", or whole days: "30d".
func ParseDays(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.ParseInt(n, 10, 64); err == nil && days >= 0 && days <= daysMax {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: expected a span of time like 90m, 12h or 30d", s)
	}
	return d, nil
}

// Changed is a list with some words added and others taken away, in the order of the
// alphabet, each once.
func Changed(list, add, remove []string) []string {
	words := make([]string, 0, len(list)+len(add))
	for _, w := range slices.Concat(list, add) {
		if !slices.Contains(remove, w) {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// PasswordFrom reads what --password-stdin asks for.
func PasswordFrom(stdin io.Reader) (string, error) {
	password, err := SecretLine(stdin)
	if err != nil {
		return "", fmt.Errorf("--password-stdin: %w", err)
	}
	return password, nil
}
