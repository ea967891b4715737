package listen

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"fairlead/mqtt/packet"
)

// webSocket accepts WebSocket connections (RFC 6455) that carry MQTT.
type webSocket struct{ origins []string }

// subprotocols are those that clients ask for [MQTT-6.0.0-3] [MQTT-6.0.0-4].
// MQTT 3.1 clients say mqttv3.1.
var subprotocols = []string{"mqtt", "mqttv3.1"}

// upgradeBytesMax bounds the HTTP request of a WebSocket client.
const upgradeBytesMax = 16 << 10

// upgrade answers the HTTP request of a WebSocket client. Any path is taken:
// clients are configured with many.
func (w *webSocket) upgrade(under Conn, info *Info) (Conn, error) {
	br := bufio.NewReaderSize(io.LimitReader(under, upgradeBytesMax), 4096)
	first, _ := br.Peek(1)
	if s := stranger(first, WS); s != nil { // TLS is behind us here
		return nil, s
	}
	req, err := http.ReadRequest(br)
	if err != nil {
		return nil, fmt.Errorf("read WebSocket request: %w", err)
	}
	protocol, status, problem := w.check(req)
	if problem != "" {
		fmt.Fprintf(under, "HTTP/1.1 %d %s\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s\n",
			status, http.StatusText(status), len(problem)+1, problem)
		return nil, fmt.Errorf("WebSocket request: %s", problem)
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		acceptKey(req.Header.Get("Sec-WebSocket-Key")) + "\r\nSec-WebSocket-Protocol: " + protocol + "\r\n\r\n"
	if _, err := io.WriteString(under, answer); err != nil {
		return nil, err
	}
	info.Subprotocol = protocol
	early, _ := br.Peek(br.Buffered())
	return &wsConn{Conn: under, early: slices.Clone(early)}, nil
}

// check returns the sub-protocol to use, or what is wrong with the request.
func (w *webSocket) check(req *http.Request) (protocol string, status int, problem string) {
	switch {
	case req.Method != http.MethodGet || !has(req.Header, "Connection", "upgrade") || !has(req.Header, "Upgrade", "websocket"):
		return "", http.StatusUpgradeRequired, "this port carries MQTT over WebSocket: expected a WebSocket upgrade"
	case req.Header.Get("Sec-WebSocket-Version") != "13":
		return "", http.StatusUpgradeRequired, "expected Sec-WebSocket-Version: 13"
	case !validKey(req.Header.Get("Sec-WebSocket-Key")):
		return "", http.StatusBadRequest, "expected a Sec-WebSocket-Key of 16 bytes"
	case !w.allows(req.Header.Get("Origin"), req.Host):
		return "", http.StatusForbidden, "web pages of this origin may not connect"
	}
	for _, p := range subprotocols {
		if has(req.Header, "Sec-WebSocket-Protocol", p) {
			return p, 0, ""
		}
	}
	return "", http.StatusBadRequest, "expected Sec-WebSocket-Protocol: mqtt"
}

// has reports whether a header that is a list of words has the word.
func has(h http.Header, name, word string) bool {
	for _, v := range h.Values(name) {
		for w := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(w), word) {
				return true
			}
		}
	}
	return false
}

func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// Close codes of RFC 6455, section 7.4.1.
const (
	closeNormal      = 1000
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeInvalid     = 1007
)

// wsConn is a Conn that speaks WebSocket over another one. Frames are taken
// apart in the buffer that the reader has lent, where the bytes of MQTT only
// move forward: an idle connection holds nothing.
type wsConn struct {
	Conn          // the connection underneath
	early  []byte // what came behind the HTTP request
	lender packet.Lender
	lent   []byte // what lender has handed out
	frame  frame
	inside bool // a fragmented message is under way

	wmu  sync.Mutex // guards the fields below; held while something is written
	rest []byte     // framed bytes that are taken over and not written yet

	cmu     sync.Mutex // guards the fields below
	control []byte     // control frames that wait for the next write
	closing bool       // a close frame is among them or was: no frame may follow it
}

// frame is what is known of the frame that is being read.
type frame struct {
	head    [14]byte // the header so far
	n       int      // bytes in head
	op      byte
	left    uint64 // payload bytes still to come; with n == 0 a header is next
	mask    [4]byte
	at      int // payload bytes seen, for the mask
	payload []byte
}

// controlMax is the longest payload of a control frame (RFC 6455, 5.5).
const controlMax = 125

// wsError is a violation of the WebSocket protocol.
type wsError struct {
	code uint16
	what string
}

func (e *wsError) Error() string { return "WebSocket: " + e.what }

// Lend implements packet.Lender towards the connection underneath.
func (c *wsConn) Lend() []byte {
	c.lent = c.lender.Lend()
	return c.lent
}

// Return implements packet.Lender.
func (c *wsConn) Return() { c.lender.Return() }

// ReadLent implements [packet.LentReader].
func (c *wsConn) ReadLent(l packet.Lender) (int, error) {
	c.lender = l
	defer func() { c.lender, c.lent = nil, nil }()
	for {
		n, err := c.readRaw()
		if n == 0 {
			return 0, err
		}
		out, bad := c.unframe(c.lent[:n])
		if bad != nil {
			c.goodbye(bad)
			if out == 0 {
				l.Return()
			}
			return out, bad
		}
		if out > 0 {
			return out, err
		}
		l.Return()
		if err != nil {
			return 0, err
		}
	}
}

// Park implements [Conn].
func (c *wsConn) Park(wake func()) bool { return len(c.early) == 0 && c.Conn.Park(wake) }

func (c *wsConn) readRaw() (int, error) {
	if len(c.early) == 0 {
		return c.Conn.ReadLent(c)
	}
	n := copy(c.Lend(), c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// Read implements net.Conn.
func (c *wsConn) Read(b []byte) (int, error) { return c.ReadLent(fixed(b)) }

// fixed lends the same buffer each time.
type fixed []byte

func (f fixed) Lend() []byte { return f }
func (f fixed) Return()      {}

// unframe takes the frames in b apart. The payload of data frames moves to the
// beginning of b; its length is returned.
func (c *wsConn) unframe(b []byte) (out int, err error) {
	f := &c.frame
	for in := 0; in < len(b) || f.complete(); {
		if !f.complete() {
			var used int
			if used, err = f.header(b[in:]); err != nil {
				return out, err
			}
			if in += used; !f.complete() {
				return out, nil
			}
			if err := c.checkFrame(); err != nil {
				return out, err
			}
		}
		n := int(min(f.left, uint64(len(b)-in)))
		part := b[in : in+n]
		f.unmask(part)
		in += n
		f.left -= uint64(n)
		if f.op >= opClose {
			f.payload = append(f.payload, part...)
		} else {
			out += copy(b[out:], part)
		}
		if f.left > 0 {
			return out, nil
		}
		if err := c.endFrame(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// complete reports whether the header of a frame has been read and its payload
// is under way.
func (f *frame) complete() bool { return f.n > 0 && f.n == f.headerBytes() }

// headerBytes is how long the header is, as far as its first two bytes tell.
func (f *frame) headerBytes() int {
	if f.n < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7F {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// header takes the bytes of the header from b and returns how many there were.
func (f *frame) header(b []byte) (used int, err error) {
	for f.n < f.headerBytes() {
		if used == len(b) {
			return used, nil
		}
		f.head[f.n] = b[used]
		f.n++
		used++
	}
	f.op = f.head[0] & 0x0F
	f.at, f.payload = 0, nil
	size := f.head[1] & 0x7F
	switch size {
	case 126:
		f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		f.left = binary.BigEndian.Uint64(f.head[2:])
	default:
		f.left = uint64(size)
	}
	if f.head[1]&0x80 == 0 {
		return used, &wsError{closeProtocol, "a frame that is not masked"}
	}
	copy(f.mask[:], f.head[f.n-4:f.n])
	return used, nil
}

// checkFrame refuses what RFC 6455 or MQTT forbids.
func (c *wsConn) checkFrame() error {
	f := &c.frame
	final := f.head[0]&0x80 != 0
	switch {
	case f.head[0]&0x70 != 0:
		return &wsError{closeProtocol, "a reserved bit is set"}
	case f.left > 1<<62:
		return &wsError{closeProtocol, "a frame length that is none"}
	case f.op >= opClose && (!final || f.left > controlMax):
		return &wsError{closeProtocol, "a control frame that is fragmented or too long"}
	case f.op == opText: // [MQTT-6.0.0-1]
		return &wsError{closeUnsupported, "a text frame: MQTT is carried in binary frames"}
	case f.op == opBinary && c.inside, f.op == opContinuation && !c.inside:
		return &wsError{closeProtocol, "a fragment out of order"}
	case f.op > opBinary && f.op < opClose, f.op > opPong:
		return &wsError{closeProtocol, fmt.Sprintf("opcode %d is reserved", f.op)}
	}
	if f.op < opClose {
		c.inside = !final
	}
	return nil
}

func (f *frame) unmask(b []byte) {
	for i := range b {
		b[i] ^= f.mask[f.at&3]
		f.at++
	}
}

// endFrame does what a control frame asks for.
func (c *wsConn) endFrame() error {
	f := &c.frame
	payload := f.payload
	f.n, f.payload = 0, nil
	switch f.op {
	case opPing:
		c.answer(opPong, payload)
	case opClose:
		if err := checkClose(payload); err != nil {
			return err
		}
		c.answer(opClose, payload[:min(len(payload), 2)])
		return io.EOF
	}
	return nil
}

// checkClose refuses the payload of a close frame that is none (RFC 6455, 5.5.1
// and 7.4): it is empty, or a code that a peer may send and a text.
func checkClose(payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 {
		return &wsError{closeProtocol, "a close frame with half a code"}
	}
	switch code := binary.BigEndian.Uint16(payload); {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default:
		return &wsError{closeProtocol, fmt.Sprintf("close code %d is reserved", code)}
	}
	if !utf8.Valid(payload[2:]) {
		return &wsError{closeInvalid, "a close frame whose text is not UTF-8"}
	}
	return nil
}

// answer sends a control frame now if nobody is writing, else before what is
// written next. Answers that nobody reads are limited: the latest pong counts.
// After a close frame nothing is sent (RFC 6455, 5.5.1).
func (c *wsConn) answer(op byte, payload []byte) {
	c.cmu.Lock()
	if c.closing {
		c.cmu.Unlock()
		return
	}
	if len(c.control) > 4*controlMax {
		c.control = c.control[:0]
	}
	c.control = append(append(c.control, 0x80|op, byte(len(payload))), payload...)
	c.closing = op == opClose
	c.cmu.Unlock()
	if !c.wmu.TryLock() {
		return
	}
	defer c.wmu.Unlock()
	if len(c.rest) == 0 {
		c.rest, _ = c.takeControl(c.rest)
		c.sendRest()
	}
}

// takeControl appends the control frames that wait to dst. If closing, the last
// of them, or one before, was a close frame: no data may follow.
func (c *wsConn) takeControl(dst []byte) (out []byte, closing bool) {
	c.cmu.Lock()
	defer c.cmu.Unlock()
	out = append(dst, c.control...)
	c.control = nil
	return out, c.closing
}

// goodbye tells the peer by a close frame what it has done wrong.
func (c *wsConn) goodbye(err error) {
	var e *wsError
	if errors.As(err, &e) {
		c.answer(opClose, append(binary.BigEndian.AppendUint16(nil, e.code), e.what...))
	}
}

// frameBuffers hold framed bytes on their way out.
var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

// TryWrite implements [Conn]. What is written becomes one binary frame.
func (c *wsConn) TryWrite(b []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if len(c.rest) > 0 { // a control frame that did not go
		if err := c.sendRest(); err != nil {
			return 0, err
		}
	}
	buf := frameBuffers.Get().(*[]byte)
	framed, closing := c.takeControl((*buf)[:0])
	if !closing {
		framed = appendFrame(framed, b)
	}
	n, err := c.Conn.TryWrite(framed)
	if errors.Is(err, ErrWouldBlock) {
		c.rest = slices.Clone(framed[n:])
	}
	if cap(framed) <= 256<<10 {
		*buf = framed
		frameBuffers.Put(buf)
	}
	if closing && err == nil {
		err = net.ErrClosed
	}
	if err != nil && !errors.Is(err, ErrWouldBlock) {
		return 0, err
	}
	return len(b), err
}

// appendFrame appends b as one binary frame, unmasked as a server's are.
func appendFrame(dst, b []byte) []byte {
	dst = append(dst, 0x80|opBinary)
	switch n := len(b); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, b...)
}

// sendRest tries to write what is framed; what does not go stays in rest.
func (c *wsConn) sendRest() error {
	n, err := c.Conn.TryWrite(c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return err
}

// Write implements net.Conn; it waits.
func (c *wsConn) Write(b []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	out, closing := c.takeControl(c.rest)
	c.rest = nil
	if len(b) > 0 && !closing {
		out = appendFrame(out, b)
	}
	_, err := c.Conn.Write(out) // even if empty: see TryWrite underneath
	if err == nil && len(b) > 0 && closing {
		err = net.ErrClosed
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close sends a close frame, if none was sent and it goes at once, and closes the
// connection.
func (c *wsConn) Close() error {
	c.Conn.SetWriteDeadline(time.Now().Add(closeTime))
	c.answer(opClose, binary.BigEndian.AppendUint16(nil, closeNormal))
	return c.Conn.Close()
}

var _ net.Conn = (*wsConn)(nil)
