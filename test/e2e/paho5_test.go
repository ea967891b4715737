package e2e

import (
	"context"
	"net"
	"testing"

	"github.com/eclipse/paho.golang/paho"
)

// paho5 is a client of paho.golang, which speaks 5.0.
type paho5 struct {
	t       *testing.T
	client  *paho.Client
	conn    net.Conn
	inbox   chan message
	present bool
	gone    bool // disconnected by the test
}

func dialPaho5(t *testing.T, o options) peer {
	t.Helper()
	conn, err := net.DialTimeout("tcp", under.addr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	p := &paho5{t: t, conn: conn, inbox: make(chan message, inbox)}
	p.client = paho.NewClient(paho.ClientConfig{
		ClientID:          o.id,
		Conn:              conn,
		PacketTimeout:     patience,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){p.arrived},
	})
	connect := &paho.Connect{ClientID: o.id, CleanStart: !o.resume, KeepAlive: 60}
	if o.resume {
		expiry := uint32(sessionExpiry)
		connect.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
	}
	if o.will != nil {
		connect.WillMessage = &paho.WillMessage{Topic: o.will.Topic, Payload: o.will.Payload, QoS: o.will.QoS, Retain: o.will.Retain}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	connack, err := p.client.Connect(ctx, connect)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	p.present = connack.SessionPresent
	t.Cleanup(func() {
		if !p.gone {
			p.disconnect()
		}
	})
	return p
}

func (p *paho5) arrived(r paho.PublishReceived) (bool, error) {
	m := message{Topic: r.Packet.Topic, Payload: r.Packet.Payload, QoS: r.Packet.QoS, Retain: r.Packet.Retain}
	if props := r.Packet.Properties; props != nil {
		m.V5 = properties{ResponseTopic: props.ResponseTopic, CorrelationData: props.CorrelationData, ContentType: props.ContentType}
		for _, u := range props.User {
			m.V5.User = append(m.V5.User, [2]string{u.Key, u.Value})
		}
	}
	p.inbox <- m
	return true, nil
}

func (p *paho5) sessionPresent() bool     { return p.present }
func (p *paho5) messages() <-chan message { return p.inbox }

func (p *paho5) subscribe(filter string, qos byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	suback, err := p.client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}})
	if err != nil {
		p.t.Fatalf("subscribe %s: %v", filter, err)
	}
	if granted := suback.Reasons[0]; granted != qos {
		p.t.Fatalf("subscribe %s: granted %#x, want QoS %d", filter, granted, qos)
	}
}

func (p *paho5) publish(m message) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	props := &paho.PublishProperties{ResponseTopic: m.V5.ResponseTopic, CorrelationData: m.V5.CorrelationData, ContentType: m.V5.ContentType}
	if m.V5.TopicAlias != 0 {
		props.TopicAlias = &m.V5.TopicAlias
	}
	for _, u := range m.V5.User {
		props.User.Add(u[0], u[1])
	}
	// An error is also what a Reason Code of 0x80 or more comes back as.
	_, err := p.client.Publish(ctx, &paho.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Properties: props})
	if err != nil {
		p.t.Fatalf("publish %s: %v", m.Topic, err)
	}
}

func (p *paho5) disconnect() {
	p.gone = true
	if err := p.client.Disconnect(&paho.Disconnect{}); err != nil {
		p.t.Logf("disconnect: %v", err) // the broker may close first, which is its right after DISCONNECT
	}
}

func (p *paho5) abort() {
	p.gone = true
	if err := p.conn.Close(); err != nil {
		p.t.Error(err)
	}
}
