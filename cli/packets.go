package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// dialFunc makes a Network Connection.
type dialFunc func(context.Context) (net.Conn, error)

// loggingPackets makes dial print a line on w for each packet of its connections, as
// mosquitto's clients do with -d.
func loggingPackets(dial dialFunc, w io.Writer, v mqtt.Version, clientID string) dialFunc {
	l := &packetLog{w: w, id: clientID}
	return func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		if err != nil {
			l.line("cannot connect: %v", err)
			return nil, err
		}
		return &loggedConn{Conn: nc, in: &stream{log: l, verb: "received", reader: packet.Reader{Version: v}},
			out: &stream{log: l, verb: "sending"}}, nil
	}
}

// packetLog is where the lines of both directions go.
type packetLog struct {
	mu sync.Mutex // guards all below
	w  io.Writer
	id string // the Client Identifier, once it is known
}

func (l *packetLog) line(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lineLocked(format, args...)
}

func (l *packetLog) lineLocked(format string, args ...any) {
	id := "(null)" // mosquitto's word for a Client Identifier that the broker is to choose
	if l.id != "" {
		id = Printable(l.id)
	}
	fmt.Fprintf(l.w, "Client %s %s\n", id, fmt.Sprintf(format, args...))
}

// loggedConn is a connection whose packets are printed.
type loggedConn struct {
	net.Conn
	in, out *stream
}

func (c *loggedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.see(p[:n])
	return n, err
}

// Write prints before it writes, so that no answer stands above its question.
func (c *loggedConn) Write(p []byte) (int, error) {
	c.out.see(p)
	return c.Conn.Write(p)
}

// stream is one direction of a connection.
type stream struct {
	log    *packetLog
	verb   string        // "received" or "sending"
	reader packet.Reader // guarded by log.mu
	lost   bool          // it could not be read any further; guarded by log.mu
}

// see prints the packets that b completes.
func (s *stream) see(b []byte) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for src := bytes.NewReader(b); src.Len() > 0 && !s.lost; {
		if n, _ := s.reader.Fill(src); n == 0 {
			s.lost = true // it has bytes, so this is our mistake; what is printed is not worth more
			return
		}
		for {
			p, err := s.reader.Next()
			if errors.Is(err, packet.ErrMore) {
				break
			}
			if err != nil {
				s.log.lineLocked("%s what is no packet: %v", s.verb, err)
				s.lost = true
				return
			}
			if c, ok := p.(*packet.Connack); ok && c.Properties.Has(mqtt.AssignedClientIdentifier) {
				s.log.id = c.Properties.AssignedClientID
			}
			s.log.lineLocked("%s %s%s", s.verb, p.Type(), packetDetails(p, s.verb == "sending"))
		}
	}
}

// packetDetails is what mosquitto prints behind the name of a packet, and for a
// Reason Code that is a no, what it means.
func packetDetails(p packet.Packet, sending bool) string {
	switch p := p.(type) {
	case *packet.Connack:
		return fmt.Sprintf(" (%s)", reasonText(p.Reason, p.Properties))
	case *packet.Publish:
		alias := ""
		if p.TopicAlias != 0 {
			alias = fmt.Sprintf(" alias %d", p.TopicAlias)
		}
		return fmt.Sprintf(" (d%d, q%d, r%d, m%d, '%s'%s, ... (%d bytes))", oneIf(p.Dup), p.QoS, oneIf(p.Retain), p.ID,
			strings.Trim(Printable(string(p.Topic)), `"`), alias, len(p.Payload))
	case *packet.Puback:
		return ackDetails(ack{p.ID, p.Reason, p.Properties, false}, sending)
	case *packet.Pubrec:
		return ackDetails(ack{p.ID, p.Reason, p.Properties, !sending}, sending)
	case *packet.Pubrel:
		return ackDetails(ack{p.ID, p.Reason, p.Properties, true}, sending)
	case *packet.Pubcomp:
		return ackDetails(ack{p.ID, p.Reason, p.Properties, false}, sending)
	case *packet.Subscribe:
		return subscribeDetails(p)
	case *packet.Suback:
		return fmt.Sprintf(" (Mid: %d, RC: %s)", p.ID, reasonTexts(p.Reasons, p.Properties))
	case *packet.Unsubscribe:
		return fmt.Sprintf(" (Mid: %d, Topic: %s)", p.ID, Printable(strings.Join(p.Filters, ", ")))
	case *packet.Unsuback:
		return fmt.Sprintf(" (Mid: %d, RC: %s)", p.ID, reasonTexts(p.Reasons, p.Properties))
	case *packet.Disconnect:
		if sending && p.Reason == mqtt.Success {
			return ""
		}
		return fmt.Sprintf(" (%s)", reasonText(p.Reason, p.Properties))
	case *packet.Auth:
		return fmt.Sprintf(" (rc%s)", reasonText(p.Reason, p.Properties))
	}
	return ""
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP.
type ack struct {
	id         mqtt.PacketID
	reason     mqtt.ReasonCode
	properties *packet.Properties
	terse      bool // mosquitto prints no Reason Code
}

// ackDetails is for PUBACK and its like, which mosquitto words differently in the two
// directions. Where it never has a Reason Code, ours stands only if it says something.
func ackDetails(a ack, sending bool) string {
	id, r, p := a.id, a.reason, a.properties
	switch {
	case a.terse && r == mqtt.Success && sending:
		return fmt.Sprintf(" (m%d)", id)
	case a.terse && r == mqtt.Success:
		return fmt.Sprintf(" (Mid: %d)", id)
	case sending:
		return fmt.Sprintf(" (m%d, rc%s)", id, reasonText(r, p))
	}
	return fmt.Sprintf(" (Mid: %d, RC:%s)", id, reasonText(r, p))
}

func subscribeDetails(p *packet.Subscribe) string {
	var b strings.Builder
	fmt.Fprintf(&b, " (Mid: %d", p.ID)
	for _, s := range p.Subscriptions {
		options := oneIf(s.NoLocal)<<2 | oneIf(s.RetainAsPublished)<<3 | int(s.RetainHandling)<<4
		fmt.Fprintf(&b, ", Topic: %s, QoS: %d, Options: 0x%02x", Printable(s.Filter), s.QoS, options)
	}
	b.WriteByte(')')
	return b.String()
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

// reasonText is the number of a Reason Code and, if it is a no, its meaning and the
// broker's words.
func reasonText(r mqtt.ReasonCode, p *packet.Properties) string {
	return reasonTexts([]mqtt.ReasonCode{r}, p)
}

func reasonTexts(reasons []mqtt.ReasonCode, p *packet.Properties) string {
	words := make([]string, len(reasons))
	for i, r := range reasons {
		words[i] = fmt.Sprint(byte(r))
		if r.Failed() {
			words[i] = fmt.Sprintf("%d: %s", byte(r), r)
		}
	}
	text := strings.Join(words, ", ")
	if p.Has(mqtt.ReasonString) {
		text += ": " + Printable(p.ReasonString)
	}
	return text
}
