package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// Limits and defaults. What a broker can make grow is bounded by one of them.
const (
	// KeepAliveDefault is the Keep Alive that is asked for.
	KeepAliveDefault = 60 * time.Second
	// ConnectTimeoutDefault bounds one attempt to connect, from the first byte
	// of the transport's handshake to CONNACK.
	ConnectTimeoutDefault = 10 * time.Second
	// InboundMaxDefault is how many received messages wait for the application;
	// with more, the client stops reading until there is room.
	InboundMaxDefault = 1024
	// InflightMaxDefault is how many QoS 1 and 2 messages may be on their way
	// to the broker; further publishers wait.
	InflightMaxDefault = 1024
	// PacketBytesMaxDefault is the largest Control Packet that is accepted. A
	// larger one ends the connection with Packet too large [MQTT-3.1.2-24].
	PacketBytesMaxDefault = 16 << 20
	// BackoffMinDefault and BackoffMaxDefault bound the wait before a reconnect.
	BackoffMinDefault = 100 * time.Millisecond
	BackoffMaxDefault = 30 * time.Second
)

// Forever is a Session Expiry Interval that never passes.
const Forever = time.Duration(math.MaxInt64)

// Options say where and how to connect. The zero value of each field but URL
// (or DialContext) works.
type Options struct {
	// URL names the broker: mqtt, tcp, mqtts, ssl, tls, ws, wss or unix. See
	// [DialTransport] for the forms. A user and password in it count if User
	// and Password are empty.
	URL string
	// TLS is used by mqtts and wss; nil verifies the broker against the
	// system's certificates and the URL's host.
	TLS *tls.Config
	// DialContext makes the Network Connection instead of URL.
	DialContext func(ctx context.Context) (net.Conn, error)
	// ConnectTimeout bounds one attempt; 0 means [ConnectTimeoutDefault].
	ConnectTimeout time.Duration

	// Version is the protocol; 0 means MQTT 5.
	Version mqtt.Version
	// ClientID may be empty: a 5.0 broker then assigns one, for 3.1 and 3.1.1
	// the client makes one up.
	ClientID string
	// User is the User Name; Password may be given without it in 5.0 only.
	User     string
	Password []byte
	// KeepAlive is the longest silence, whole seconds up to 65,535; 0 means
	// [KeepAliveDefault], negative turns it off.
	KeepAlive time.Duration
	// CleanStart ends an existing session at the first connect. Reconnects
	// never ask for it, unless SessionExpiry is 0 in 3.1 and 3.1.1.
	CleanStart bool
	// SessionExpiry is how long the broker keeps the session without a
	// connection: whole seconds, or [Forever]. In 3.1 and 3.1.1 zero means Clean
	// Session, and anything else a session that stays.
	SessionExpiry time.Duration
	// Will is published by the broker if the connection ends without
	// Disconnect; nil: none.
	Will *packet.Will
	// Connect holds further CONNECT properties (5.0): User, Request Problem
	// Information and so on. What the other fields say is added to a copy.
	Connect *packet.Properties
	// Auth takes part in enhanced authentication (5.0); nil: none.
	Auth Authenticator

	// Handler is called for each message, one at a time and in order; nil:
	// use [Client.Receive]. A handler that publishes with QoS 1 or 2 and waits
	// for the end of it can wait behind InboundMax messages that wait for the
	// handler: use [Client.PublishAsync] there, or DropQoS0.
	Handler func(*Message)
	// ManualAck leaves the acknowledgement of QoS 1 and 2 messages to
	// [Message.Ack]. Otherwise a message is acknowledged when the handler
	// returns, or as Receive returns it.
	ManualAck bool
	// ReceiveMaximum bounds the QoS 1 and 2 messages that the broker sends
	// ahead of acknowledgements (5.0); 0 means the smaller of InboundMax and
	// 65,535.
	ReceiveMaximum uint16
	// InboundMax is the room for received messages; 0 means
	// [InboundMaxDefault]. When it is used up the client stops reading, which
	// the broker sees as a slow receiver.
	InboundMax int
	// DropQoS0 drops QoS 0 messages that find no room, instead of waiting;
	// [Client.Dropped] counts them.
	DropQoS0 bool
	// InflightMax bounds outbound QoS 1 and 2 messages beside the broker's
	// Receive Maximum; 0 means [InflightMaxDefault], at most 65,535.
	InflightMax int
	// PacketBytesMax is told to a 5.0 broker and enforced; 0 means
	// [PacketBytesMaxDefault].
	PacketBytesMax int
	// TopicAliases lets the client replace Topic Names by Topic Aliases as far
	// as the broker allows.
	TopicAliases bool
	// TopicAliasMaximum is how many Topic Aliases the broker may use; 0: none.
	TopicAliasMaximum uint16

	// Reconnect makes the client connect again when the connection is lost, and
	// go on where it was: unacknowledged messages are sent again, subscriptions
	// renewed if the broker has lost the session. The first connect is never
	// repeated.
	Reconnect bool
	// BackoffMin and BackoffMax bound the wait before an attempt; it doubles
	// each time and varies by half. 0 means the defaults.
	BackoffMin, BackoffMax time.Duration
	// OnConnect is called with the broker's CONNACK after each connect, before
	// any message; it must not call the client.
	OnConnect func(*packet.Connack)
	// OnDisconnect is called with the cause when a connection is lost; it must
	// not call the client.
	OnDisconnect func(error)
	// Log receives debug lines about packets; nil: none.
	Log *slog.Logger
}

// withDefaults returns a checked copy.
func (o Options) withDefaults() (Options, error) {
	if o.Version == 0 {
		o.Version = mqtt.V5
	}
	o.ConnectTimeout = orDefault(o.ConnectTimeout, ConnectTimeoutDefault)
	o.KeepAlive = orDefault(o.KeepAlive, KeepAliveDefault)
	o.InboundMax = orDefault(o.InboundMax, InboundMaxDefault)
	o.InflightMax = orDefault(o.InflightMax, InflightMaxDefault)
	o.PacketBytesMax = orDefault(o.PacketBytesMax, PacketBytesMaxDefault)
	o.BackoffMin = orDefault(o.BackoffMin, BackoffMinDefault)
	o.BackoffMax = orDefault(o.BackoffMax, BackoffMaxDefault)
	o.ReceiveMaximum = orDefault(o.ReceiveMaximum, uint16(min(o.InboundMax, math.MaxUint16)))
	if o.KeepAlive < 0 {
		o.KeepAlive = 0
	}
	if o.Version < mqtt.V5 && o.ClientID == "" {
		o.ClientID = randomID()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, o.check()
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// check says what is wrong with the options, all of it.
func (o Options) check() error {
	var errs []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(o.URL == "" && o.DialContext == nil, "URL is empty: expected one like mqtt://127.0.0.1:1883")
	wrong(o.Version < mqtt.V31 || o.Version > mqtt.V5, "version %d: expected 3 (3.1), 4 (3.1.1) or 5 (5.0)", o.Version)
	wrong(o.KeepAlive > math.MaxUint16*time.Second, "keep alive %v: expected at most 65535s", o.KeepAlive)
	wrong(o.SessionExpiry < 0, "session expiry %v: expected 0 or more", o.SessionExpiry)
	wrong(o.InboundMax < 0, "inbound max %d: expected 1 or more", o.InboundMax)
	wrong(o.InflightMax < 0 || o.InflightMax > math.MaxUint16, "inflight max %d: expected 1 to 65535", o.InflightMax)
	wrong(o.PacketBytesMax < 0, "packet bytes max %d: expected 1 or more", o.PacketBytesMax)
	wrong(o.BackoffMin < 0 || o.BackoffMax < o.BackoffMin, "backoff %v to %v: expected a range", o.BackoffMin, o.BackoffMax)
	if o.Version < mqtt.V5 {
		// [MQTT-3.1.2-22] is 3.1.1's [v3 MQTT-3.1.2-22]; 5.0 dropped it.
		wrong(o.Password != nil && o.User == "", "password without a user: MQTT %v has no such CONNECT [v3 MQTT-3.1.2-22]", o.Version)
		wrong(o.Auth != nil, "enhanced authentication needs MQTT 5.0, not %v", o.Version)
	}
	if o.Will != nil {
		if err := topic.CheckName(o.Will.Topic); err != nil {
			errs = append(errs, fmt.Errorf("will: %w", err))
		}
		wrong(o.Will.QoS > mqtt.QoS2, "will QoS %d: expected 0, 1 or 2 [MQTT-3.1.2-12]", o.Will.QoS)
	}
	return errors.Join(errs...)
}

// connect is the CONNECT of these options. again is for reconnects.
func (o Options) connect(clientID string, again bool) *packet.Connect {
	c := &packet.Connect{
		Version:     o.Version,
		CleanStart:  o.CleanStart && !again,
		KeepAlive:   uint16(o.KeepAlive / time.Second),
		ClientID:    clientID,
		HasUser:     o.User != "",
		User:        o.User,
		HasPassword: o.Password != nil,
		Password:    o.Password,
		Will:        o.Will,
	}
	if o.Version < mqtt.V5 {
		c.CleanStart = c.CleanStart || o.SessionExpiry == 0
		return c
	}
	c.Properties = o.connectProperties()
	return c
}

func (o Options) connectProperties() *packet.Properties {
	var p packet.Properties
	if o.Connect != nil {
		p = *o.Connect
	}
	if s := expirySeconds(o.SessionExpiry); s > 0 {
		p.SessionExpiry = s
		p.Mark(mqtt.SessionExpiryInterval)
	}
	p.ReceiveMaximum = o.ReceiveMaximum
	p.Mark(mqtt.ReceiveMaximum)
	p.MaximumPacketSize = uint32(min(o.PacketBytesMax, math.MaxUint32))
	p.Mark(mqtt.MaximumPacketSize)
	if o.TopicAliasMaximum > 0 {
		p.TopicAliasMaximum = o.TopicAliasMaximum
		p.Mark(mqtt.TopicAliasMaximum)
	}
	if o.Auth != nil {
		p.AuthenticationMethod = o.Auth.Method()
		p.Mark(mqtt.AuthenticationMethod)
	}
	return &p
}

// expirySeconds rounds up: a session of half a second is one that stays.
func expirySeconds(d time.Duration) uint32 {
	s := (d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return uint32(min(s, math.MaxUint32))
}
