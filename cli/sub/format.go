package sub

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fairlead/cli"
	"fairlead/client"
	"fairlead/mqtt"
)

// A printer appends a message, which came at the time at, to dst.
type printer func(dst []byte, m *client.Message, at time.Time) ([]byte, error)

// printer is what the flags -F, -v and --json ask for.
func (c *command) printer() (printer, error) {
	switch {
	case c.json && c.format != "":
		return nil, cli.Usagef("--json and -F: expected one of them")
	case c.json:
		return jsonPrinter(payloadAny, c.pretty), nil
	case c.format != "":
		return compile(c.format, c.pretty)
	case c.verbose:
		return verbose, nil
	}
	return compile("%p", false)
}

// bare reports whether only payloads are printed.
func (c *command) bare() bool { return c.format == "" && !c.verbose && !c.json }

// verbose prints topic and payload; for an empty one it says so, as mosquitto_sub
// does.
func verbose(dst []byte, m *client.Message, _ time.Time) ([]byte, error) {
	dst = append(append(dst, m.Topic...), ' ')
	if len(m.Payload) == 0 {
		return append(dst, "(null)"...), nil
	}
	return append(dst, m.Payload...), nil
}

// compile reads a format of mosquitto_sub's -F.
func compile(format string, pretty bool) (printer, error) {
	var parts []printer
	for format != "" {
		part, rest, err := cutPart(format, pretty)
		if err != nil {
			return nil, cli.Usagef("-F: %v", err)
		}
		parts, format = append(parts, part), rest
	}
	return func(dst []byte, m *client.Message, at time.Time) (_ []byte, err error) {
		for _, part := range parts {
			if dst, err = part(dst, m, at); err != nil {
				return dst, err
			}
		}
		return dst, nil
	}, nil
}

// cutPart compiles the first part of a format, which is not empty.
func cutPart(format string, pretty bool) (printer, string, error) {
	switch format[0] {
	case '%':
		return cutParameter(format[1:], pretty)
	case '@':
		if len(format) < 2 {
			return nil, "", errors.New("'@' at the end: expected a letter of strftime after it")
		}
		return timePart(format[1]), format[2:], nil
	case '\\':
		return cutEscape(format[1:])
	}
	n := strings.IndexAny(format, `%@\`)
	if n < 0 {
		n = len(format)
	}
	return literal(format[:n]), format[n:], nil
}

func literal(s string) printer {
	return func(dst []byte, _ *client.Message, _ time.Time) ([]byte, error) { return append(dst, s...), nil }
}

// escapes are what may follow a backslash.
var escapes = map[byte]string{'\\': "\\", '0': "\x00", 'a': "\a", 'e': "\x1b", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v"}

func cutEscape(rest string) (printer, string, error) {
	if rest == "" {
		return nil, "", errors.New(`'\' at the end: expected one of \ 0 a e n r t v after it`)
	}
	s, ok := escapes[rest[0]]
	if !ok {
		return nil, "", fmt.Errorf(`'\%c': expected one of \ 0 a e n r t v after the backslash`, rest[0])
	}
	return literal(s), rest[1:], nil
}

// field is the width of a parameter: %-010.20t.
type field struct {
	zero, left bool
	width, max int // max < 0: no limit
}

// widthMax bounds what a field may be padded to.
const widthMax = 10_000

// cutParameter compiles what follows a '%'.
func cutParameter(s string, pretty bool) (printer, string, error) {
	f := field{max: -1}
	for s != "" && (s[0] == '0' || s[0] == '-') {
		f.zero = f.zero || s[0] == '0'
		f.left = f.left || s[0] == '-'
		s = s[1:]
	}
	f.width, s = cutNumber(s)
	if strings.HasPrefix(s, ".") {
		f.max, s = cutNumber(s[1:])
	}
	if s == "" {
		return nil, "", errors.New("'%' at the end: expected a parameter after it")
	}
	if f.width > widthMax {
		return nil, "", fmt.Errorf("width %d: expected at most %d", f.width, widthMax)
	}
	part, err := parameter(s[0], f, pretty)
	return part, s[1:], err
}

func cutNumber(s string) (n int, rest string) {
	for s != "" && s[0] >= '0' && s[0] <= '9' {
		n = min(n*10+int(s[0]-'0'), widthMax+1)
		s = s[1:]
	}
	return n, s
}

// parameter compiles one letter of the format.
func parameter(letter byte, f field, pretty bool) (printer, error) {
	switch letter {
	case '%':
		return literal("%"), nil
	case 'j':
		return jsonPrinter(payloadText, pretty), nil
	case 'J':
		return jsonPrinter(payloadJSON, pretty), nil
	case 'I':
		return f.text(func(_ *client.Message, at time.Time) string { return at.Format("2006-01-02T15:04:05-0700") }), nil
	case 'U':
		return literalTime(func(at time.Time) string { return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond()) }), nil
	case 'p':
		return payloadPart(f), nil
	}
	if text, ok := texts[letter]; ok {
		return f.text(func(m *client.Message, _ time.Time) string { return text(m) }), nil
	}
	if number, ok := numbers[letter]; ok {
		return f.number(number), nil
	}
	return nil, fmt.Errorf("parameter %%%c is unknown: expected one of A C D E F I j J l m p P q r R S t U x X %%", letter)
}

// texts are the parameters that may be cut to a width.
var texts = map[byte]func(*client.Message) string{
	't': func(m *client.Message) string { return m.Topic },
	'C': func(m *client.Message) string { s, _ := m.Properties.ContentType(); return s },
	'R': func(m *client.Message) string { s, _ := m.Properties.ResponseTopic(); return s },
	'D': func(m *client.Message) string { b, _ := m.Properties.CorrelationData(); return string(b) },
	'P': func(m *client.Message) string {
		var pairs []string
		for u := range m.Properties.User() {
			pairs = append(pairs, u.Name+":"+u.Value)
		}
		return strings.Join(pairs, " ")
	},
	'S': func(m *client.Message) string {
		var ids []string
		for _, id := range m.SubscriptionIDs {
			ids = append(ids, strconv.FormatUint(uint64(id), 10))
		}
		return strings.Join(ids, " ")
	},
	'q': func(m *client.Message) string { return strconv.Itoa(int(m.QoS)) },
	'r': func(m *client.Message) string { return strconv.Itoa(one(m.Retain)) },
}

// numbers are the parameters that may be padded with zeros. The second result
// says whether there is one.
var numbers = map[byte]func(*client.Message) (string, bool){
	'l': func(m *client.Message) (string, bool) { return strconv.Itoa(len(m.Payload)), true },
	'm': func(m *client.Message) (string, bool) { return strconv.Itoa(int(m.ID)), true },
	'A': func(m *client.Message) (string, bool) { return strconv.Itoa(int(m.TopicAlias)), m.TopicAlias != 0 },
	'E': func(m *client.Message) (string, bool) { return strconv.FormatUint(uint64(m.Expiry), 10), m.HasExpiry },
	'F': func(m *client.Message) (string, bool) {
		is, ok := payloadFormat(m.Properties)
		return strconv.Itoa(is), ok
	},
	'x': func(m *client.Message) (string, bool) { return hex.EncodeToString(m.Payload), true },
	'X': func(m *client.Message) (string, bool) {
		return strings.ToUpper(hex.EncodeToString(m.Payload)), true
	},
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// payloadFormat is the Payload Format Indicator, and whether there is one. A 0
// that was sent cannot be told from none by [mqtt.Properties], and says the
// same.
func payloadFormat(p mqtt.Properties) (int, bool) {
	if p.PayloadIsUTF8() {
		return 1, true
	}
	return 0, false
}

func (f field) text(of func(*client.Message, time.Time) string) printer {
	return func(dst []byte, m *client.Message, at time.Time) ([]byte, error) {
		s := of(m, at)
		if f.max >= 0 {
			s = firstRunes(s, f.max)
		}
		return f.pad(dst, s, ' '), nil
	}
}

func (f field) number(of func(*client.Message) (string, bool)) printer {
	fill := f.fill()
	return func(dst []byte, m *client.Message, _ time.Time) ([]byte, error) {
		s, ok := of(m)
		if !ok {
			return f.pad(dst, "", ' '), nil
		}
		return f.pad(dst, s, fill), nil
	}
}

// payloadPart prints the bytes as they are.
func payloadPart(f field) printer {
	fill := f.fill()
	return func(dst []byte, m *client.Message, _ time.Time) ([]byte, error) {
		if f.width == 0 {
			return append(dst, m.Payload...), nil
		}
		return f.pad(dst, string(m.Payload), fill), nil
	}
}

// fill is what stands in front of a short number or payload.
func (f field) fill() byte {
	if f.zero {
		return '0'
	}
	return ' '
}

func (f field) pad(dst []byte, s string, fill byte) []byte {
	missing := max(0, f.width-utf8.RuneCountInString(s))
	if f.left {
		return append(append(dst, s...), strings.Repeat(" ", missing)...)
	}
	return append(append(dst, strings.Repeat(string(fill), missing)...), s...)
}

func firstRunes(s string, n int) string {
	for at := range s {
		if n == 0 {
			return s[:at]
		}
		n--
	}
	return s
}

func literalTime(of func(time.Time) string) printer {
	return func(dst []byte, _ *client.Message, at time.Time) ([]byte, error) { return append(dst, of(at)...), nil }
}

// How the payload stands in a JSON object.
type payloadForm int

const (
	payloadText payloadForm = iota // %j: a text
	payloadJSON                    // %J: JSON, or it is an error
	payloadAny                     // --json: JSON, else text, else Base64
)

var errNotJSON = errors.New("the payload is not valid JSON")

// message is a message as a JSON object, with mosquitto_sub's names.
type message struct {
	Time       string          `json:"tst"`
	Topic      string          `json:"topic"`
	QoS        int             `json:"qos"`
	Retain     int             `json:"retain"`
	Length     int             `json:"payloadlen"`
	ID         mqtt.PacketID   `json:"mid,omitempty"`
	Dup        int             `json:"dup,omitempty"`
	Properties *properties     `json:"properties,omitempty"`
	Payload    json.RawMessage `json:"payload,omitempty"`
	Base64     string          `json:"payload_base64,omitempty"`
}

type properties struct {
	Format          int             `json:"payload-format-indicator,omitempty"`
	Expiry          *uint32         `json:"message-expiry-interval,omitempty"`
	ContentType     string          `json:"content-type,omitempty"`
	ResponseTopic   string          `json:"response-topic,omitempty"`
	CorrelationData string          `json:"correlation-data,omitempty"`
	CorrelationB64  string          `json:"correlation-data_base64,omitempty"`
	TopicAlias      uint16          `json:"topic-alias,omitempty"`
	SubscriptionIDs []uint32        `json:"subscription-identifiers,omitempty"`
	User            json.RawMessage `json:"user-properties,omitempty"`
}

func jsonPrinter(form payloadForm, pretty bool) printer {
	return func(dst []byte, m *client.Message, at time.Time) ([]byte, error) {
		v := message{
			Time: at.Format("2006-01-02T15:04:05.000000-0700"), Topic: m.Topic, QoS: int(m.QoS),
			Retain: one(m.Retain), Length: len(m.Payload), ID: m.ID, Dup: one(m.Dup), Properties: propertiesOf(m),
		}
		if err := v.setPayload(form, m.Payload); err != nil {
			return dst, err
		}
		return appendJSON(dst, v, pretty)
	}
}

func (v *message) setPayload(form payloadForm, payload []byte) error {
	if len(payload) == 0 {
		v.Payload = json.RawMessage("null")
		return nil
	}
	if form != payloadText && json.Valid(payload) {
		v.Payload = payload
		return nil
	}
	if form == payloadJSON {
		return errNotJSON
	}
	if form == payloadAny && !utf8.Valid(payload) {
		v.Base64 = base64.StdEncoding.EncodeToString(payload)
		return nil
	}
	v.Payload = quoted(string(payload))
	return nil
}

// quoted is s as a JSON string, with '<' and its like left as they are.
func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string is always valid
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func appendJSON(dst []byte, v any, pretty bool) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if pretty {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		return dst, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// propertiesOf are the message's properties, or nil if there are none.
func propertiesOf(m *client.Message) *properties {
	if len(m.Properties) == 0 && !m.HasExpiry && m.TopicAlias == 0 && len(m.SubscriptionIDs) == 0 {
		return nil
	}
	p := &properties{TopicAlias: m.TopicAlias, SubscriptionIDs: m.SubscriptionIDs, User: userProperties(m.Properties)}
	p.Format, _ = payloadFormat(m.Properties)
	p.ContentType, _ = m.Properties.ContentType()
	p.ResponseTopic, _ = m.Properties.ResponseTopic()
	if m.HasExpiry {
		p.Expiry = &m.Expiry
	}
	if data, ok := m.Properties.CorrelationData(); ok {
		if utf8.Valid(data) {
			p.CorrelationData = string(data)
		} else {
			p.CorrelationB64 = base64.StdEncoding.EncodeToString(data)
		}
	}
	return p
}

// userProperties is a list of objects with one member each: order and repeated
// names survive.
func userProperties(p mqtt.Properties) json.RawMessage {
	var b bytes.Buffer
	for u := range p.User() {
		if b.Len() == 0 {
			b.WriteByte('[')
		} else {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "{%s:%s}", quoted(u.Name), quoted(u.Value))
	}
	if b.Len() == 0 {
		return nil
	}
	b.WriteByte(']')
	return b.Bytes()
}
