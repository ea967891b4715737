package e2e

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// paho3 is a client of paho.mqtt.golang, which speaks 3.1 and 3.1.1.
type paho3 struct {
	t       *testing.T
	client  mqtt.Client
	inbox   chan message
	present bool

	mu   sync.Mutex // guards conn
	conn net.Conn
}

func dialPaho3(version uint, tr transport) func(*testing.T, options) peer {
	return func(t *testing.T, o options) peer {
		t.Helper()
		p := &paho3{t: t, inbox: make(chan message, inbox)}
		opts := mqtt.NewClientOptions().
			AddBroker(tr.url()).
			SetClientID(o.id).
			SetProtocolVersion(version).
			SetCleanSession(!o.resume).
			SetAutoReconnect(false).
			SetConnectTimeout(patience).
			SetDefaultPublishHandler(p.arrived)
		opts.SetCustomOpenConnectionFn(p.open)
		if o.will != nil {
			opts.SetBinaryWill(o.will.Topic, o.will.Payload, o.will.QoS, o.will.Retain)
		}
		p.client = mqtt.NewClient(opts)
		token := p.client.Connect().(*mqtt.ConnectToken)
		p.wait(token, "connect")
		p.present = token.SessionPresent()
		t.Cleanup(func() { p.client.Disconnect(0) })
		return p
	}
}

// open connects as the library would, and keeps the connection for abort.
func (p *paho3) open(u *url.URL, o mqtt.ClientOptions) (net.Conn, error) {
	nc, err := dialURL(u)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = nc
	return nc, err
}

func dialURL(u *url.URL) (net.Conn, error) {
	switch u.Scheme {
	case "ws":
		return mqtt.NewWebsocket(u.String(), (*tls.Config)(nil), patience, http.Header{}, nil)
	case "mqtt":
		return net.DialTimeout("tcp", u.Host, patience)
	}
	return nil, errors.New("no transport for " + u.String())
}

func (p *paho3) arrived(_ mqtt.Client, m mqtt.Message) {
	p.inbox <- message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained()}
}

func (p *paho3) wait(token mqtt.Token, what string) {
	p.t.Helper()
	if !token.WaitTimeout(patience) {
		p.t.Fatalf("%s: no answer", what)
	}
	if err := token.Error(); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

func (p *paho3) sessionPresent() bool     { return p.present }
func (p *paho3) messages() <-chan message { return p.inbox }

func (p *paho3) subscribe(filter string, qos byte) {
	p.t.Helper()
	token := p.client.Subscribe(filter, qos, nil).(*mqtt.SubscribeToken)
	p.wait(token, "subscribe "+filter)
	// The library files a shared subscription's result under another name.
	for name, granted := range token.Result() {
		if granted != qos {
			p.t.Fatalf("subscribe %s: granted %#x, want QoS %d", name, granted, qos)
		}
	}
}

func (p *paho3) publish(m message) {
	p.t.Helper()
	p.wait(p.client.Publish(m.Topic, m.QoS, m.Retain, m.Payload), "publish "+m.Topic)
}

// quiesce is how long the library finishes its work before DISCONNECT, in ms.
const quiesce = 250

func (p *paho3) disconnect() { p.client.Disconnect(quiesce) }

func (p *paho3) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.conn.Close(); err != nil {
		p.t.Error(err)
	}
}
