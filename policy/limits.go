package policy

import (
	"strconv"
	"strings"
	"time"

	"fairlead/document"
)

// Rate is so much in a span of time: a bucket that holds Count at most and takes
// Per to fill. The zero Rate is no limit.
type Rate struct {
	Count int64
	Per   time.Duration
}

// String returns the rate as a document has it: "10/s".
func (r Rate) String() string {
	for unit, span := range spans {
		if span == r.Per {
			return strconv.FormatInt(r.Count, 10) + "/" + unit
		}
	}
	return "no limit"
}

// stricter returns the rate that lets less through over time.
func (r Rate) stricter(o Rate) Rate {
	if r.Per == 0 {
		return o
	}
	if o.Per == 0 {
		return r
	}
	a, b := float64(r.Count)/r.Per.Seconds(), float64(o.Count)/o.Per.Seconds()
	if b < a || b == a && o.Count < r.Count {
		return o
	}
	return r
}

// Limits bound what a principal may do beside what it may reach. Zero is no limit.
// Each connection counts for itself.
type Limits struct {
	Messages      Rate          // that it publishes
	Bytes         Rate          // of payload that it publishes
	Subscriptions int           // that its session has at a time
	SessionExpiry time.Duration // the longest Session Expiry Interval
}

// stricter takes the stricter of each limit.
func (l Limits) stricter(o Limits) Limits {
	return Limits{
		Messages:      l.Messages.stricter(o.Messages),
		Bytes:         l.Bytes.stricter(o.Bytes),
		Subscriptions: stricter(l.Subscriptions, o.Subscriptions),
		SessionExpiry: stricter(l.SessionExpiry, o.SessionExpiry),
	}
}

// stricter is the smaller of two limits for which zero is none.
func stricter[T ~int | ~int64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// spans are the units of time that a rate may have.
var spans = map[string]time.Duration{"s": time.Second, "min": time.Minute, "h": time.Hour}

// subscriptionsMax is the highest limit that makes sense to write.
const subscriptionsMax = 1_000_000

// readLimits reads the limits of a policy.
func readLimits(v *document.Value) (l Limits) {
	v.Known("limits", "messages", "bytes", "subscriptions", "session_expiry")
	l.Messages = readRate(v.Get("messages"), "a rate like 10/s, 600/min or 1000/h", func(s string) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil
	})
	l.Bytes = readRate(v.Get("bytes"), "a rate like 64KiB/s or 10MB/h", document.ParseBytes)
	l.Subscriptions, _ = v.Get("subscriptions").Int(1, subscriptionsMax)
	expiry := v.Get("session_expiry")
	if d, ok := expiry.Duration(); ok {
		if d < time.Second {
			expiry.Errorf("found %v, expected at least 1s, because MQTT counts seconds", d)
		}
		l.SessionExpiry = d
	}
	return l
}

func readRate(v *document.Value, expected string, parse func(string) (int64, bool)) Rate {
	text, ok := v.Text(expected)
	if !ok {
		return Rate{}
	}
	count, unit, _ := strings.Cut(text, "/")
	n, ok := parse(count)
	if span := spans[unit]; ok && n > 0 && span != 0 {
		return Rate{n, span}
	}
	v.Errorf("found %.80q, expected %s", text, expected)
	return Rate{}
}
