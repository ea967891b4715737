package client

import (
	"context"
	"fmt"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// authStepsMax bounds the AUTH packets of one exchange, so that a broker cannot
// keep a client busy for ever.
const authStepsMax = 32

// An Authenticator is the client's side of enhanced authentication (5.0,
// section 4.12): the Authentication Method and the steps of one exchange. The
// client calls it from one goroutine at a time and begins anew at each connect.
type Authenticator interface {
	// Method is the Authentication Method of CONNECT.
	Method() string
	// Begin returns the Authentication Data to begin with, or nil.
	Begin(ctx context.Context) ([]byte, error)
	// Continue answers the broker's AUTH with Continue authentication.
	Continue(ctx context.Context, data []byte) ([]byte, error)
	// End sees the data that came with the broker's success, often its own
	// proof. An error refuses the broker.
	End(ctx context.Context, data []byte) error
}

// authPacket is an AUTH with the method and the data.
func authPacket(code mqtt.ReasonCode, method string, data []byte) *packet.Auth {
	p := &packet.Properties{AuthenticationMethod: method}
	p.Mark(mqtt.AuthenticationMethod) // the same method throughout [MQTT-4.12.0-5]
	if data != nil {
		p.AuthenticationData = data
		p.Mark(mqtt.AuthenticationData)
	}
	return &packet.Auth{Reason: code, Properties: p}
}

func authData(p *packet.Properties) []byte {
	if !p.Has(mqtt.AuthenticationData) {
		return nil
	}
	return p.AuthenticationData
}

// answerAuth answers the broker's AUTH with Continue authentication.
func answerAuth(ctx context.Context, a Authenticator, in *packet.Auth) (*packet.Auth, error) {
	if a == nil {
		return nil, &packet.Error{Reason: mqtt.ProtocolError, Packet: packet.AUTH, What: "AUTH, though CONNECT named no Authentication Method"} // [MQTT-4.12.0-6]
	}
	if in.Reason != mqtt.ContinueAuthentication { // [MQTT-4.12.0-2]
		return nil, &packet.Error{Reason: mqtt.ProtocolError, Packet: packet.AUTH, What: fmt.Sprintf("Reason Code %s: expected %s", in.Reason, mqtt.ContinueAuthentication)}
	}
	data, err := a.Continue(ctx, authData(in.Properties))
	if err != nil {
		return nil, fmt.Errorf("authenticate by %s: %w", a.Method(), err)
	}
	return authPacket(mqtt.ContinueAuthentication, a.Method(), data), nil // [MQTT-4.12.0-3]
}

// A reauthentication is one that the client has begun on a live connection.
type reauthentication struct {
	done  chan struct{}
	err   error // valid once done is closed
	steps int
}

// Reauthenticate runs the Authenticator again on the live connection and
// returns its outcome (section 4.12.1). One at a time; a second call meanwhile
// is an error. If the broker refuses it ends the connection.
func (c *Client) Reauthenticate(ctx context.Context) error {
	a := c.options.Auth
	if a == nil {
		return fmt.Errorf("reauthenticate: Options.Auth is nil")
	}
	data, err := a.Begin(ctx)
	if err != nil {
		return fmt.Errorf("authenticate by %s: %w", a.Method(), err)
	}
	r, err := c.beginReauth(authPacket(mqtt.ReAuthenticate, a.Method(), data)) // [MQTT-4.12.1-1]
	if err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Client) beginReauth(first *packet.Auth) (*reauthentication, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if c.link == nil {
		return nil, fmt.Errorf("reauthenticate: not connected")
	}
	if c.reauth != nil {
		return nil, fmt.Errorf("reauthenticate: one is under way")
	}
	c.reauth = &reauthentication{done: make(chan struct{})}
	return c.reauth, c.link.put(first)
}

// onAuth takes a broker's AUTH on a live connection. It runs in the reader.
func (c *Client) onAuth(l *link, in *packet.Auth) error {
	c.mu.Lock()
	r := c.reauth
	c.mu.Unlock()
	if r == nil {
		return &packet.Error{Reason: mqtt.ProtocolError, Packet: packet.AUTH, What: "AUTH, though no re-authentication is under way"}
	}
	if in.Reason == mqtt.Success {
		err := c.options.Auth.End(context.Background(), authData(in.Properties))
		c.endReauth(err)
		return err
	}
	if r.steps++; r.steps > authStepsMax {
		return fmt.Errorf("more than %d AUTH packets in one exchange", authStepsMax)
	}
	out, err := answerAuth(context.Background(), c.options.Auth, in)
	if err != nil {
		c.endReauth(err)
		return err
	}
	return l.put(out)
}

func (c *Client) endReauth(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endReauthLocked(err)
}

func (c *Client) endReauthLocked(err error) {
	if c.reauth == nil {
		return
	}
	c.reauth.err = err
	close(c.reauth.done)
	c.reauth = nil
}
