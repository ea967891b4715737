package crash

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// kind says what an event is.
type kind byte

const (
	started  kind = iota // the broker's process was started
	ready                // it has answered a CONNECT
	killed               // SIGKILL will be sent next
	ended                // the process has ended
	opened               // a client will open a Network Connection next
	closed               // the client will close it next
	lost                 // the client has seen its end, and did not close it
	sent                 // the packet will be written next
	received             // the packet was read
)

var kindNames = []string{"started", "ready", "killed", "ended", "opened", "closed", "lost", ">", "<"}

// forever is the Session Expiry Interval of a session that does not end by itself.
const forever = 0xFFFFFFFF

// An event is one line of a history. What a client does stands there before it
// is done, and what it sees after it was seen: so if one event stands before
// another, it happened before.
type event struct {
	at     time.Duration // since the round began
	kind   kind
	client string // empty: the broker's process
	conn   int    // counts the client's connections
	text   string // killed, ended, lost: why

	packet  packet.Type // sent, received
	id      mqtt.PacketID
	qos     mqtt.QoS
	dup     bool
	retain  bool
	topic   string
	message string            // PUBLISH: the name of the message, which its payload begins with; empty: no payload
	code    mqtt.ReasonCode   // CONNACK, PUBACK, PUBREC, PUBCOMP, DISCONNECT
	codes   []mqtt.ReasonCode // SUBACK, UNSUBACK
	subs    []filterQoS       // SUBSCRIBE, UNSUBSCRIBE
	present bool              // CONNACK: Session Present
	connect *connectFields    // CONNECT
	expiry  *uint32           // DISCONNECT: the new Session Expiry Interval
}

// filterQoS is a Topic Filter and the QoS asked for.
type filterQoS struct {
	filter string
	qos    mqtt.QoS
}

// connectFields are what matters in a CONNECT.
type connectFields struct {
	version    mqtt.Version
	clean      bool
	expiry     uint32 // seconds; a 3.1.1 client has 0 with Clean Session and forever without
	receiveMax uint16 // 0: not said
	will       *willFields
}

type willFields struct {
	topic   string
	message string
	qos     mqtt.QoS
	delay   uint32 // seconds
}

// String is the event's line: "1.234567 sub2#3 < PUBLISH id=7 qos=2 topic=a m=pub1.9".
func (e *event) String() string {
	b := fmt.Appendf(nil, "%.6f ", e.at.Seconds())
	if e.client == "" {
		b = append(b, "broker "...)
	} else {
		b = fmt.Appendf(b, "%s#%d ", e.client, e.conn)
	}
	b = append(b, kindNames[e.kind]...)
	if e.kind == sent || e.kind == received {
		b = append(b, ' ')
		b = append(b, e.packet.String()...)
		b = e.appendFields(b)
	}
	if e.text != "" {
		b = append(b, ' ')
		b = append(b, strings.ReplaceAll(e.text, "\n", " | ")...)
	}
	return string(b)
}

func (e *event) appendFields(b []byte) []byte {
	word := func(on bool, w string) {
		if on {
			b = append(append(b, ' '), w...)
		}
	}
	number := func(on bool, name string, n int) {
		if on {
			b = fmt.Appendf(b, " %s=%d", name, n)
		}
	}
	if c := e.connect; c != nil {
		number(true, "v", int(c.version))
		word(c.clean, "clean")
		number(true, "expiry", int(c.expiry))
		number(c.receiveMax > 0, "receive", int(c.receiveMax))
		if w := c.will; w != nil {
			b = fmt.Appendf(b, " will=%s will-topic=%s will-qos=%d will-delay=%d", w.message, w.topic, w.qos, w.delay)
		}
	}
	number(e.id > 0, "id", int(e.id))
	word(e.present, "present")
	if e.packet == packet.PUBLISH {
		number(true, "qos", int(e.qos))
		word(e.dup, "dup")
		word(e.retain, "retain")
		b = fmt.Appendf(b, " topic=%s m=%s", e.topic, e.message)
	}
	for _, s := range e.subs {
		b = fmt.Appendf(b, " filter=%s:%d", s.filter, s.qos)
	}
	for _, c := range e.codes {
		b = fmt.Appendf(b, " code=%02x", byte(c))
	}
	if e.code != 0 {
		b = fmt.Appendf(b, " code=%02x", byte(e.code))
	}
	if e.expiry != nil {
		number(true, "expiry", int(*e.expiry))
	}
	return b
}

// parseHistory reads what String has written, line by line. A line without a
// time happened a millisecond after the one before it, and one without the
// number of a connection on the client's latest. Lines that begin with '#' are
// comments.
func parseHistory(text string) ([]event, error) {
	var h []event
	conns := make(map[string]int)
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		e := event{}
		if len(h) > 0 {
			e.at = h[len(h)-1].at + time.Millisecond
		}
		if err := e.parse(strings.Fields(line), conns); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", i+1, line, err)
		}
		h = append(h, e)
	}
	return h, nil
}

func (e *event) parse(words []string, conns map[string]int) error {
	if at, err := strconv.ParseFloat(words[0], 64); err == nil {
		e.at = time.Duration(at * float64(time.Second)).Round(time.Microsecond)
		words = words[1:]
	}
	if len(words) < 2 {
		return fmt.Errorf("expected who and what")
	}
	known := false
	for k, name := range kindNames {
		if words[1] == name {
			e.kind, known = kind(k), true
		}
	}
	if !known {
		return fmt.Errorf("%q: expected one of %s", words[1], strings.Join(kindNames, ", "))
	}
	if words[0] != "broker" {
		e.parseClient(words[0], conns)
	}
	if e.kind != sent && e.kind != received {
		e.text = strings.Join(words[2:], " ")
		return nil
	}
	if len(words) < 3 {
		return fmt.Errorf("expected a packet")
	}
	for t := packet.CONNECT; t <= packet.AUTH; t++ {
		if t.String() == words[2] {
			e.packet = t
		}
	}
	if e.packet == 0 {
		return fmt.Errorf("%q is no packet", words[2])
	}
	if e.packet == packet.CONNECT {
		e.connect = &connectFields{}
	}
	for _, w := range words[3:] {
		if err := e.parseField(w); err != nil {
			return fmt.Errorf("%q: %w", w, err)
		}
	}
	return nil
}

func (e *event) parseClient(who string, conns map[string]int) {
	name, number, ok := strings.Cut(who, "#")
	e.client = name
	switch {
	case ok:
		e.conn, _ = strconv.Atoi(number)
	case e.kind == opened:
		e.conn = conns[name] + 1
	default:
		e.conn = conns[name]
	}
	conns[name] = e.conn
}

// parseField reads one word after the packet's name.
func (e *event) parseField(w string) error {
	name, value, _ := strings.Cut(w, "=")
	if e.parseText(name, value) {
		return nil
	}
	base := 10
	if name == "code" {
		base = 16
	}
	n, err := strconv.ParseUint(value, base, 32)
	if err != nil {
		return err
	}
	c := e.connect
	switch {
	case name == "id":
		e.id = mqtt.PacketID(n)
	case name == "qos":
		e.qos = mqtt.QoS(n)
	case name == "code" && (e.packet == packet.SUBACK || e.packet == packet.UNSUBACK):
		e.codes = append(e.codes, mqtt.ReasonCode(n))
	case name == "code":
		e.code = mqtt.ReasonCode(n)
	case name == "v" && c != nil:
		c.version = mqtt.Version(n)
	case name == "receive" && c != nil:
		c.receiveMax = uint16(n)
	case name == "expiry" && c != nil:
		c.expiry = uint32(n)
	case name == "expiry":
		expiry := uint32(n)
		e.expiry = &expiry
	case name == "will-qos" && c != nil && c.will != nil:
		c.will.qos = mqtt.QoS(n)
	case name == "will-delay" && c != nil && c.will != nil:
		c.will.delay = uint32(n)
	default:
		return fmt.Errorf("no such field")
	}
	return nil
}

// parseText reads the fields that are no numbers, and reports whether this was one.
func (e *event) parseText(name, value string) bool {
	c := e.connect
	switch {
	case name == "clean" && c != nil:
		c.clean = true
	case name == "will" && c != nil:
		c.will = &willFields{message: value}
	case name == "will-topic" && c != nil && c.will != nil:
		c.will.topic = value
	case name == "present":
		e.present = true
	case name == "dup":
		e.dup = true
	case name == "retain":
		e.retain = true
	case name == "topic":
		e.topic = value
	case name == "m":
		e.message = value
	case name == "filter":
		at := strings.LastIndexByte(value, ':')
		if at < 0 {
			return false
		}
		e.subs = append(e.subs, filterQoS{value[:at], mqtt.QoS(value[at+1] - '0')})
	default:
		return false
	}
	return true
}
