package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A kit is one client library speaking one protocol version over one transport.
type kit struct {
	name    string
	version int // the Protocol Level: 3, 4 or 5
	// dial connects and returns once the CONNACK has come. What goes wrong
	// later ends the test too.
	dial func(t *testing.T, o options) peer
}

// kits are all that the scenarios run with.
var kits = []kit{
	{"paho.mqtt.golang/3.1/tcp", 3, dialPaho3(3, tcp)},
	{"paho.mqtt.golang/3.1.1/tcp", 4, dialPaho3(4, tcp)},
	{"paho.mqtt.golang/3.1.1/ws", 4, dialPaho3(4, ws)},
	{"paho.golang/5.0/tcp", 5, dialPaho5},
	{"MQTT.js/3.1/tcp", 3, dialMQTTJS(3, tcp)},
	{"MQTT.js/3.1/ws", 3, dialMQTTJS(3, ws)},
	{"MQTT.js/3.1.1/tcp", 4, dialMQTTJS(4, tcp)},
	{"MQTT.js/3.1.1/ws", 4, dialMQTTJS(4, ws)},
	{"MQTT.js/5.0/tcp", 5, dialMQTTJS(5, tcp)},
	{"MQTT.js/5.0/ws", 5, dialMQTTJS(5, ws)},
}

// A transport is how the bytes travel.
type transport int

const (
	tcp transport = iota
	ws
)

// url is where the broker listens for the transport.
func (tr transport) url() string {
	if tr == ws {
		return under.ws
	}
	return "mqtt://" + under.addr()
}

// options say how to connect.
type options struct {
	id     string
	resume bool // keep the session at the end, take it up at the start
	will   *message
}

// sessionExpiry is the Session Expiry Interval, in seconds, that a 5.0 client
// asks for to be able to resume; older versions keep sessions for ever.
const sessionExpiry = 3600

// A message is what a client sends or sees.
type message struct {
	Topic   string     `json:"topic"`
	Payload []byte     `json:"payload"`
	QoS     byte       `json:"qos"`
	Retain  bool       `json:"retain"`
	V5      properties `json:"v5"` // sent with 5.0 only
}

// properties are the PUBLISH properties that the scenarios use.
type properties struct {
	ResponseTopic   string      `json:"responseTopic,omitempty"`
	CorrelationData []byte      `json:"correlationData,omitempty"`
	ContentType     string      `json:"contentType,omitempty"`
	TopicAlias      uint16      `json:"topicAlias,omitempty"`
	User            [][2]string `json:"user,omitempty"`
}

func (m message) String() string {
	payload := fmt.Sprintf("%q", m.Payload)
	if len(m.Payload) > 40 {
		payload = fmt.Sprintf("%q… (%d bytes)", m.Payload[:40], len(m.Payload))
	}
	return fmt.Sprintf("{%s %s qos=%d retain=%t %+v}", m.Topic, payload, m.QoS, m.Retain, m.V5)
}

// A peer is one connected client. Its methods end the test when the library
// reports an error or patience runs out.
type peer interface {
	// sessionPresent is the CONNACK's flag; version 3.1 has none.
	sessionPresent() bool
	// subscribe returns once the SUBACK has granted filter at qos.
	subscribe(filter string, qos byte)
	// publish returns once the message's QoS is complete.
	publish(m message)
	// messages carries what arrives, in order.
	messages() <-chan message
	// disconnect sends DISCONNECT and closes.
	disconnect()
	// abort closes the Network Connection without DISCONNECT.
	abort()
}

// inbox is the room for messages that a test has not read yet. Libraries that
// call back for each message must not be held up by a test.
const inbox = 4096

// receive returns the next message that p gets.
func receive(t *testing.T, p peer) message {
	t.Helper()
	select {
	case m := <-p.messages():
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
		return message{}
	}
}

// want ends the test unless the next message is the one described: topic,
// payload, QoS and RETAIN.
func want(t *testing.T, p peer, w message) message {
	t.Helper()
	got := receive(t, p)
	if got.Topic != w.Topic || !bytes.Equal(got.Payload, w.Payload) || got.QoS != w.QoS || got.Retain != w.Retain {
		t.Fatalf("received %v, want %v", got, w)
	}
	return got
}

var serial atomic.Int64

// unique returns a name that no other test of this run, and no earlier run
// against the same broker, has used. It fits the 23 bytes that 3.1 allows a
// Client Identifier, with room for a suffix of six.
func unique() string {
	return fmt.Sprintf("e%x.%d", time.Now().UnixMilli()&0xffffffff, serial.Add(1))
}

// text makes a message whose payload is a string.
func text(topic, payload string, qos byte) message {
	return message{Topic: topic, Payload: []byte(payload), QoS: qos}
}

// clean replaces what may not stand in a test's name.
func clean(name string) string { return strings.ReplaceAll(name, "/", "_") }
