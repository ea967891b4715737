package conformance

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// The packet types by their names in the scripts.
var packetTypes = []string{"", "connect", "connack", "publish", "puback", "pubrec", "pubrel", "pubcomp", "subscribe",
	"suback", "unsubscribe", "unsuback", "pingreq", "pingresp", "disconnect", "auth"}

// property is one MQTT 5 property: its identifier and the form of its value.
type property struct {
	id   byte
	form string // byte, u16, u32, varint, string, pair
}

var properties = map[string]property{
	"format": {0x01, "byte"}, "expiry": {0x02, "u32"}, "content-type": {0x03, "string"}, "response-topic": {0x08, "string"},
	"correlation": {0x09, "string"}, "subid": {0x0B, "varint"}, "session-expiry": {0x11, "u32"}, "assigned-id": {0x12, "string"},
	"server-keepalive": {0x13, "u16"}, "auth-method": {0x15, "string"}, "auth-data": {0x16, "string"},
	"req-problem": {0x17, "byte"}, "delay": {0x18, "u32"}, "req-response": {0x19, "byte"}, "response-info": {0x1A, "string"},
	"server-ref": {0x1C, "string"}, "reason": {0x1F, "string"}, "receive-max": {0x21, "u16"}, "alias-max": {0x22, "u16"},
	"alias": {0x23, "u16"}, "max-qos": {0x24, "byte"}, "retain-available": {0x25, "byte"}, "user": {0x26, "pair"},
	"max-packet": {0x27, "u32"}, "wildcards": {0x28, "byte"}, "subids": {0x29, "byte"}, "shared": {0x2A, "byte"},
}

// token is one word of a line: a key with or without a value.
type token struct {
	key, val string
	has      bool // there was a "="
}

func num(s string) int {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic(fmt.Sprintf("%q is no number", s))
	}
	return int(n)
}

func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func varint(b []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// section appends the properties among the tokens whose keys begin with prefix.
func section(b []byte, prefix string, ts []token) []byte {
	var s []byte
	for _, t := range ts {
		key, ok := strings.CutPrefix(t.key, prefix)
		p, known := properties[key]
		if !ok || !known {
			continue
		}
		s = append(s, p.id)
		switch p.form {
		case "byte":
			s = append(s, byte(num(t.val)))
		case "u16":
			s = binary.BigEndian.AppendUint16(s, uint16(num(t.val)))
		case "u32":
			s = binary.BigEndian.AppendUint32(s, uint32(num(t.val)))
		case "varint":
			s = varint(s, num(t.val))
		case "string":
			s = text(s, t.val)
		case "pair":
			name, val, _ := strings.Cut(t.val, ":")
			s = text(text(s, name), val)
		}
	}
	return append(varint(b, len(s)), s...)
}

// words are the tokens of a line with what it does not say.
type words []token

func (w words) get(key, otherwise string) string {
	for _, t := range w {
		if t.key == key {
			return t.val
		}
	}
	return otherwise
}

func (w words) num(key string, otherwise int) int { return num(w.get(key, strconv.Itoa(otherwise))) }

func (w words) is(key string) bool {
	return slices.ContainsFunc(w, func(t token) bool { return t.key == key })
}

// encode returns the bytes of the packet that a line describes.
func encode(v int, verb string, w words) []byte {
	flags, body := byte(0), []byte(nil)
	props := func(prefix string) {
		if v >= 5 {
			body = section(body, prefix, w)
		}
	}
	id := func() { body = binary.BigEndian.AppendUint16(body, uint16(w.num("id", 1))) }
	switch verb {
	case "connect":
		body = connectBody(v, w)
	case "publish":
		qos := w.num("qos", 0)
		flags = byte(qos << 1)
		if w.is("dup") {
			flags |= 8
		}
		if w.is("retain") {
			flags |= 1
		}
		body = text(body, w.get("topic", ""))
		if qos > 0 {
			id()
		}
		props("")
		body = append(body, w.get("msg", "")...)
	case "puback", "pubrec", "pubrel", "pubcomp":
		if verb == "pubrel" {
			flags = 2
		}
		id()
		if w.is("code") {
			body = append(body, byte(w.num("code", 0)))
			props("")
		}
	case "subscribe":
		flags = 2
		id()
		props("")
		body = subscriptions(body, w)
	case "unsubscribe":
		flags = 2
		id()
		props("")
		for _, t := range w {
			if t.key == "filter" {
				body = text(body, t.val)
			}
		}
	case "disconnect", "auth":
		if w.is("code") {
			body = append(body, byte(w.num("code", 0)))
			props("")
		}
	}
	flags = byte(w.num("flags", int(flags)))
	first := byte(slices.Index(packetTypes, verb))<<4 | flags
	return append(varint([]byte{first}, len(body)), body...)
}

func connectBody(v int, w words) (b []byte) {
	name := "MQTT"
	if v == 3 {
		name = "MQIsdp"
	}
	b = append(text(b, w.get("proto", name)), byte(w.num("level", v)))
	flags := 0
	set := func(key string, bit int) bool {
		if w.is(key) {
			flags |= bit
		}
		return w.is(key)
	}
	if !w.is("keep") {
		flags |= 0x02
	}
	will := set("will", 0x04)
	flags |= w.num("wqos", 0) << 3
	set("wretain", 0x20)
	pass, user := set("pass", 0x40), set("user-name", 0x80)
	b = append(b, byte(w.num("cflags", flags)))
	b = binary.BigEndian.AppendUint16(b, uint16(w.num("ka", 0)))
	if v >= 5 {
		b = section(b, "", w)
	}
	b = text(b, w.get("id", ""))
	if will {
		if v >= 5 {
			b = section(b, "w-", w)
		}
		b = text(text(b, w.get("will", "")), w.get("wmsg", ""))
	}
	if user {
		b = text(b, w.get("user-name", ""))
	}
	if pass {
		b = text(b, w.get("pass", ""))
	}
	return b
}

// subscriptions appends the Topic Filters with their options: "filter" begins an
// entry, what follows belongs to it.
func subscriptions(b []byte, w words) []byte {
	for i, t := range w {
		if t.key != "filter" {
			continue
		}
		b = text(b, t.val)
		rest := w[i+1:]
		if next := slices.IndexFunc(rest, func(t token) bool { return t.key == "filter" }); next >= 0 {
			rest = rest[:next]
		}
		o := rest.num("qos", 0) | rest.num("handling", 0)<<4
		if rest.is("no-local") {
			o |= 4
		}
		if rest.is("as-published") {
			o |= 8
		}
		b = append(b, byte(rest.num("options", o)))
	}
	return b
}

// raw turns a line of pieces into bytes: pairs of hex digits; s'text' with its
// length in front; t'text' without; "[" and "]" around what a Remaining Length or
// Property Length stands in front of.
func raw(line string) []byte {
	var stack [][]byte
	var b []byte
	for len(line) > 0 {
		switch c := line[0]; {
		case c == ' ':
			line = line[1:]
		case c == '[':
			stack, b, line = append(stack, b), nil, line[1:]
		case c == ']':
			outer := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			b, line = append(varint(outer, len(b)), b...), line[1:]
		case strings.HasPrefix(line, "s'") || strings.HasPrefix(line, "t'"):
			s, rest, ok := strings.Cut(line[2:], "'")
			if !ok {
				panic("no end of " + line)
			}
			if c == 's' {
				b = text(b, s)
			} else {
				b = append(b, s...)
			}
			line = rest
		default:
			x, err := hex.DecodeString(line[:2])
			if err != nil {
				panic(fmt.Sprintf("%q: %v", line, err))
			}
			b, line = append(b, x...), line[2:]
		}
	}
	return b
}

// got is a packet that has come, in words.
type got struct {
	verb   string
	fields map[string]string
	bytes  []byte
}

func (g got) String() string {
	keys := make([]string, 0, len(g.fields))
	for k := range g.fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	s := g.verb
	for _, k := range keys {
		s += fmt.Sprintf(" %s=%q", k, g.fields[k])
	}
	return s
}

// read reads one packet and takes it apart.
func read(r *bufio.Reader, v int) (g got, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return got{}, err
	}
	n, shift := 0, 0
	for {
		b, err := r.ReadByte()
		if err != nil {
			return got{}, err
		}
		if n |= int(b&0x7F) << shift; b < 0x80 {
			break
		}
		shift += 7
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return got{}, err
	}
	g = got{verb: packetTypes[first>>4], fields: map[string]string{}, bytes: append([]byte{first}, body...)}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the broker sent a %s that can't be read: %x", g.verb, g.bytes)
		}
	}()
	d := &decoder{b: body, fields: g.fields}
	d.packet(v, g.verb, first)
	if len(d.b) > 0 {
		g.fields["left-over"] = hex.EncodeToString(d.b)
	}
	return g, err
}

type decoder struct {
	b      []byte
	fields map[string]string
}

func (d *decoder) take(n int) []byte {
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) uint(n int) (v int) {
	for _, b := range d.take(n) {
		v = v<<8 | int(b)
	}
	return v
}

func (d *decoder) text() string { return string(d.take(d.uint(2))) }

func (d *decoder) varint() (v int) {
	for shift := 0; ; shift += 7 {
		b := d.uint(1)
		if v |= b & 0x7F << shift; b < 0x80 {
			return v
		}
	}
}

func (d *decoder) set(key string, v any) {
	s := fmt.Sprint(v)
	if old, ok := d.fields[key]; ok {
		s = old + "," + s
	}
	d.fields[key] = s
}

func (d *decoder) properties() {
	in := &decoder{b: d.take(d.varint()), fields: d.fields}
	for len(in.b) > 0 {
		id := byte(in.uint(1))
		for name, p := range properties {
			if p.id != id {
				continue
			}
			switch p.form {
			case "byte":
				in.set(name, in.uint(1))
			case "u16":
				in.set(name, in.uint(2))
			case "u32":
				in.set(name, in.uint(4))
			case "varint":
				in.set(name, in.varint())
			case "string":
				in.set(name, in.text())
			case "pair":
				k := in.text()
				in.set(name, k+":"+in.text())
			}
		}
	}
}

// packet reads what a Server may send.
func (d *decoder) packet(v int, verb string, first byte) {
	code := func(otherwise string) {
		d.fields["code"] = otherwise
		if len(d.b) > 0 {
			d.fields["code"] = fmt.Sprintf("%02x", d.uint(1))
		}
		if v >= 5 && len(d.b) > 0 {
			d.properties()
		}
	}
	switch verb {
	case "connack":
		d.set("present", d.uint(1))
		code("")
	case "publish":
		d.set("dup", first>>3&1)
		d.set("qos", first>>1&3)
		d.set("retain", first&1)
		d.set("topic", d.text())
		if first>>1&3 > 0 {
			d.set("id", d.uint(2))
		}
		if v >= 5 {
			d.properties()
		}
		d.set("msg", string(d.take(len(d.b))))
	case "puback", "pubrec", "pubrel", "pubcomp":
		d.set("flags", first&15)
		d.set("id", d.uint(2))
		code("00")
	case "suback", "unsuback":
		d.set("id", d.uint(2))
		if v >= 5 {
			d.properties()
		}
		d.set("codes", hex.EncodeToString(d.take(len(d.b))))
	case "disconnect", "auth":
		code("00")
	}
}
