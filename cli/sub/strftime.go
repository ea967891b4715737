package sub

import (
	"fmt"
	"time"
)

// layouts are the letters of strftime that Go's time formats have.
var layouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'c': "Mon Jan _2 15:04:05 2006",
	'd': "02", 'D': "01/02/06", 'e': "_2", 'F': "2006-01-02", 'H': "15", 'I': "03", 'j': "002", 'm': "01",
	'M': "04", 'p': "PM", 'P': "pm", 'r': "03:04:05 PM", 'R': "15:04", 'S': "05", 'T': "15:04:05",
	'x': "01/02/06", 'X': "15:04:05", 'y': "06", 'Y': "2006", 'z': "-0700", 'Z': "MST",
}

// timePart prints what strftime prints for %letter, in the C locale. @N is
// mosquitto_sub's own: nanoseconds. A letter that strftime does not know stays
// as it is.
func timePart(letter byte) printer {
	if layout, ok := layouts[letter]; ok {
		return literalTime(func(at time.Time) string { return at.Format(layout) })
	}
	if of, ok := calendar[letter]; ok {
		return literalTime(of)
	}
	if letter == '@' {
		return literal("@")
	}
	return literal("@" + string(rune(letter)))
}

// calendar are the letters that need a calculation.
var calendar = map[byte]func(time.Time) string{
	'N': func(t time.Time) string { return fmt.Sprintf("%09d", t.Nanosecond()) },
	's': func(t time.Time) string { return fmt.Sprint(t.Unix()) },
	'C': func(t time.Time) string { return fmt.Sprintf("%02d", t.Year()/100) },
	'G': func(t time.Time) string { y, _ := t.ISOWeek(); return fmt.Sprint(y) },
	'g': func(t time.Time) string { y, _ := t.ISOWeek(); return fmt.Sprintf("%02d", y%100) },
	'V': func(t time.Time) string { _, w := t.ISOWeek(); return fmt.Sprintf("%02d", w) },
	'k': func(t time.Time) string { return fmt.Sprintf("%2d", t.Hour()) },
	'l': func(t time.Time) string { return fmt.Sprintf("%2s", t.Format("3")) },
	'u': func(t time.Time) string { return fmt.Sprint((int(t.Weekday())+6)%7 + 1) },
	'w': func(t time.Time) string { return fmt.Sprint(int(t.Weekday())) },
	'U': func(t time.Time) string { return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7) },
	'W': func(t time.Time) string { return fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7) },
	'n': func(time.Time) string { return "\n" },
	't': func(time.Time) string { return "\t" },
	'%': func(time.Time) string { return "%" },
}
