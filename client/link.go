package client

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

const (
	// outboxBytesMax is how many bytes wait for the socket before publishers do.
	outboxBytesMax = 1 << 20
	// outboxAcksMax is where waiting acknowledgements end the connection: the
	// broker sends and does not read.
	outboxAcksMax = 4 * outboxBytesMax
	// linger is how long a connection stays open after the last packet: for
	// the packet to leave, and for the broker to close its side. Closing at
	// once with unread bytes resets the connection, and the reset may overtake
	// the acknowledgements.
	linger = time.Second
	// keepBytes is the largest write buffer that is kept for the next round.
	keepBytes = 64 << 10
)

// limits are what the broker's CONNACK allows.
type limits struct {
	maximumQoS      mqtt.QoS
	retain          bool
	receiveMaximum  int
	packetBytesMax  int
	topicAliasesMax uint16
	keepAlive       time.Duration
}

// limitsOf reads the CONNACK; what is not there has the standard's default.
func limitsOf(o *Options, p *packet.Properties) limits {
	lim := limits{mqtt.QoS2, true, math.MaxUint16, math.MaxInt, 0, o.KeepAlive}
	if p.Has(mqtt.MaximumQoS) {
		lim.maximumQoS = mqtt.QoS(p.MaximumQoS)
	}
	if p.Has(mqtt.RetainAvailable) {
		lim.retain = p.RetainAvailable != 0
	}
	if p.Has(mqtt.ReceiveMaximum) {
		lim.receiveMaximum = int(p.ReceiveMaximum)
	}
	if p.Has(mqtt.MaximumPacketSize) {
		lim.packetBytesMax = int(p.MaximumPacketSize)
	}
	if p.Has(mqtt.TopicAliasMaximum) {
		lim.topicAliasesMax = p.TopicAliasMaximum
	}
	if p.Has(mqtt.ServerKeepAlive) {
		lim.keepAlive = time.Duration(p.ServerKeepAlive) * time.Second // [MQTT-3.2.2-21]
	}
	return lim
}

// A link is one Network Connection from CONNECT to its end.
type link struct {
	nc      net.Conn
	version mqtt.Version
	reader  *reader
	limits  limits

	heard  atomic.Int64 // when bytes last came, in Unix nanoseconds
	wrote  atomic.Int64 // when bytes last went
	paused atomic.Bool  // the reader waits for room and hears nothing

	ending  sync.Once
	gone    chan struct{} // closed when the link is to end
	cause   error         // why; valid once gone is closed
	parting bool          // a DISCONNECT is the last packet; valid once gone is closed
	readEnd chan struct{} // closed when readLoop has returned

	mu   sync.Mutex // guards buf and room
	buf  []byte     // packets that wait for writeLoop
	room chan struct{}
	wake chan struct{}

	aliasesIn []string // by Topic Alias - 1; the reader's

	// The rest is guarded by Client.mu.
	quota      int // PUBLISH packets with QoS > 0 that may still be sent [MQTT-4.9.0-2]
	unacked    int // received, and neither PUBACK nor PUBCOMP sent
	aliasesOut map[string]uint16
	// aliasesNamed says that a message has named its alias itself.
	aliasesNamed bool
	receipts     [3][]*receipt // by QoS: received, not acknowledged, in order
}

func newLink(nc net.Conn, o *Options) *link {
	l := &link{
		nc:        nc,
		version:   o.Version,
		gone:      make(chan struct{}),
		readEnd:   make(chan struct{}),
		wake:      make(chan struct{}, 1),
		aliasesIn: make([]string, o.TopicAliasMaximum),
	}
	now := time.Now().UnixNano()
	l.heard.Store(now)
	l.wrote.Store(now)
	l.reader = newReader(heardReader{l}, o)
	return l
}

// heardReader notes when bytes came.
type heardReader struct{ l *link }

func (r heardReader) Read(p []byte) (int, error) {
	n, err := r.l.nc.Read(p)
	if n > 0 {
		r.l.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// errFull says that the outbox has no room; wait for link.room.
var errFull = errors.New("the outbox is full")

// put appends a packet that must not wait: an acknowledgement, a PINGREQ.
func (l *link) put(p packet.Packet) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > outboxAcksMax {
		err := fmt.Errorf("the broker does not read: %d bytes wait for it", len(l.buf))
		l.end(err, nil)
		return err
	}
	return l.appendLocked(p)
}

// putRoom appends a packet if there is room for it, and returns errFull and
// what to wait for otherwise.
func (l *link) putRoom(p packet.Packet) (room <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) <= outboxBytesMax {
		return nil, l.appendLocked(p)
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	return l.room, errFull
}

func (l *link) appendLocked(p packet.Packet) error {
	before := len(l.buf)
	buf, err := packet.Append(l.buf, l.version, p)
	if err != nil {
		return err
	}
	if n := len(buf) - before; n > l.limits.packetBytesMax && l.limits.packetBytesMax > 0 {
		l.buf = buf[:before]
		return &LimitError{Code: mqtt.PacketTooLarge, What: fmt.Sprintf("%s of %d bytes: the broker takes %d", p.Type(), n, l.limits.packetBytesMax)} // [MQTT-3.2.2-15]
	}
	l.buf = buf
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// take hands the waiting bytes to the writer and gives it a buffer for more.
func (l *link) take(spare []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	buf := l.buf
	l.buf = spare[:0]
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	return buf
}

// end makes the loops stop because of err. If last is not nil it is sent first.
func (l *link) end(err error, last packet.Packet) {
	l.ending.Do(func() {
		l.cause = err
		l.parting = last != nil
		_ = l.nc.SetWriteDeadline(time.Now().Add(linger))
		close(l.gone)
	})
}

// part ends the link with a DISCONNECT as its last packet.
func (l *link) part(err error, d *packet.Disconnect) {
	l.mu.Lock()
	if l.version >= mqtt.V5 || d.Reason == mqtt.Success {
		_ = l.appendLocked(d) // too large for the broker: then it goes without a word
	}
	l.mu.Unlock()
	l.end(err, d)
}

// writeLoop writes what is in the outbox, a batch at a time, until the link
// ends; then it writes the rest and closes the connection.
func (l *link) writeLoop() {
	defer l.nc.Close()
	var spare []byte
	for open := true; open; {
		select {
		case <-l.wake:
		case <-l.gone:
			open = false
		}
		buf := l.take(spare)
		if len(buf) > 0 {
			if _, err := l.nc.Write(buf); err != nil {
				l.end(fmt.Errorf("write: %w", err), nil)
				return
			}
			l.wrote.Store(time.Now().UnixNano())
		}
		if spare = buf; cap(spare) > keepBytes {
			spare = nil
		}
	}
	if l.parting {
		l.awaitPeer()
	}
}

// awaitPeer gives the broker a moment to close its side first.
func (l *link) awaitPeer() {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-l.readEnd:
	case <-timer.C:
	}
}

// readLoop hands each packet to take until the link ends.
func (l *link) readLoop(take func(packet.Packet) error) {
	defer close(l.readEnd)
	for {
		p, err := l.reader.Next()
		if err != nil {
			l.endRead(err)
			return
		}
		if l.ended() {
			continue // only the end of the stream still matters
		}
		if err := take(p); err != nil {
			l.endRead(err)
		}
	}
}

// endRead ends the link because of what was read. A broker that broke the
// protocol is told so [MQTT-4.13.1-1].
func (l *link) endRead(err error) {
	var bad *packet.Error
	if errors.As(err, &bad) {
		l.part(fmt.Errorf("from the broker: %w", err), &packet.Disconnect{Reason: bad.Reason})
		return
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the broker closed the connection")
	}
	l.end(err, nil)
}

func (l *link) ended() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// keepAliveLoop sends PINGREQ when either direction was silent for three
// quarters of the Keep Alive, early enough for the network's delay
// [MQTT-3.1.2-20], and ends the link if nothing answers.
func (l *link) keepAliveLoop() {
	every := l.limits.keepAlive
	if every == 0 {
		return
	}
	silenceMax, answerMax := every*3/4, min(max(every/2, time.Second), 30*time.Second)
	timer := time.NewTimer(silenceMax)
	defer timer.Stop()
	var asked time.Time // when the unanswered PINGREQ went; zero: none
	for {
		select {
		case <-l.gone:
			return
		case <-timer.C:
		}
		now := time.Now()
		if !asked.IsZero() && (l.paused.Load() || l.heard.Load() >= asked.UnixNano()) {
			asked = time.Time{}
		}
		if !asked.IsZero() {
			l.end(ErrPingTimeout, nil)
			return
		}
		silence := now.Sub(time.Unix(0, min(l.heard.Load(), l.wrote.Load())))
		if silence < silenceMax {
			timer.Reset(silenceMax - silence)
			continue
		}
		if err := l.put(&packet.Pingreq{}); err != nil {
			return
		}
		asked = now
		timer.Reset(answerMax)
	}
}
