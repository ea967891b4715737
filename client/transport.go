package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
)

// DialTransport makes the Network Connection that rawURL names, up to and
// including the TLS and WebSocket handshakes:
//
//	mqtt://HOST[:1883]   tcp://            TCP
//	mqtts://HOST[:8883]  ssl:// tls://     TLS over TCP
//	ws://HOST[:80]/PATH                    WebSocket, subprotocol mqtt
//	wss://HOST[:443]/PATH                  WebSocket over TLS
//	unix:///PATH                           a Unix domain socket
//
// A port that is missing is the one in brackets, and a missing host is
// 127.0.0.1. config is used by the forms with TLS and may be nil.
func DialTransport(ctx context.Context, rawURL string, config *tls.Config) (net.Conn, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "unix":
		return dialNet(ctx, "unix", u.Path)
	case "mqtt", "tcp":
		return dialNet(ctx, "tcp", hostPort(u, "1883"))
	case "mqtts", "ssl", "tls":
		return dialTLS(ctx, hostPort(u, "8883"), config)
	default:
		return dialWebSocket(ctx, u, config)
	}
}

// parseURL accepts what DialTransport documents, and nothing else.
func parseURL(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("broker %w", err)
	}
	u.Scheme = strings.ToLower(u.Scheme)
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("broker URL %q: expected unix:///PATH", u.Redacted())
		}
	case "mqtt", "tcp", "mqtts", "ssl", "tls", "ws", "wss":
		if u.Hostname() == "" {
			u.Host = net.JoinHostPort("127.0.0.1", u.Port())
			u.Host = strings.TrimSuffix(u.Host, ":")
		}
	default:
		return nil, fmt.Errorf("broker URL %q: scheme %q: expected mqtt, mqtts, ws, wss or unix", u.Redacted(), u.Scheme)
	}
	return u, nil
}

func hostPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func dialNet(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func dialTLS(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	d := tls.Dialer{Config: config}
	return d.DialContext(ctx, "tcp", address)
}

// dialWebSocket opens a WebSocket and returns its stream of bytes. Control
// Packets need not align with frames [MQTT-6.0.0-2], so a stream is what it is.
func dialWebSocket(ctx context.Context, u *url.URL, config *tls.Config) (net.Conn, error) {
	plain := *u
	plain.User = nil // the user is for CONNECT, not for HTTP
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: false}
	ws, response, err := websocket.Dial(ctx, plain.String(), &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		Subprotocols: []string{"mqtt"}, // [MQTT-6.0.0-3]
	})
	if err != nil {
		return nil, webSocketError(response, err)
	}
	if ws.Subprotocol() != "mqtt" {
		_ = ws.CloseNow()
		return nil, fmt.Errorf("websocket %s: the server chose subprotocol %q, expected \"mqtt\" [MQTT-6.0.0-4]", plain.Redacted(), ws.Subprotocol())
	}
	ws.SetReadLimit(-1) // the packet reader has the limit; a frame may hold many packets
	// The context of NetConn ends reads and writes; the connection outlives ctx.
	return websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
}

func webSocketError(response *http.Response, err error) error {
	if response == nil {
		return err
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return err
	}
	return fmt.Errorf("websocket: HTTP %s: %w", response.Status, err)
}
