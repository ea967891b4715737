package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Size is a number of bytes for people: "5.6 MiB".
func Size[T int | int64 | uint64](bytes T) string {
	const units = "KMGTPE"
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	f, unit := float64(bytes)/1024, 0
	for f >= 1023.95 {
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[unit])
}

// Count is a number for people: "1,234,567".
func Count[T int | int64 | uint64](n T) string {
	s := strconv.FormatUint(uint64(n), 10)
	if n < 0 {
		return strconv.FormatInt(int64(n), 10)
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Things is "1 key" or "12 keys".
func Things[T int | int64 | uint64](n T, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return Count(n) + " " + thing + "s"
}

// Span is a duration for people, in its two largest units: "3h 12m", "1.5 s", "512 µs".
func Span(d time.Duration) string {
	d = max(d, 0)
	two := func(a, b time.Duration, names string) string {
		return fmt.Sprintf("%d%c %d%c", d/a, names[0], d%a/b, names[1])
	}
	const day = 24 * time.Hour
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second-500*time.Microsecond:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d < time.Hour:
		return two(time.Minute, time.Second, "ms")
	case d < day:
		return two(time.Hour, time.Minute, "hm")
	}
	return two(day, time.Hour, "dh")
}

// Printable is s as it is, or quoted if a terminal could take it for something else.
func Printable(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
