package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync/atomic"

	"fairlead/admin"
	"fairlead/client"
)

// transport says how Network Connections are made where that is not by o.URL alone.
func (c *Connection) transport(env *Env, o *client.Options) error {
	dial := dialFunc(func(ctx context.Context) (net.Conn, error) { return client.DialTransport(ctx, o.URL, o.TLS) })
	plain := !c.debug
	if c.bind != "" {
		bound, err := c.bound(o.URL, o.TLS)
		if err != nil {
			return err
		}
		dial, plain = bound, false
	}
	local, err := c.onThisMachine(env, dial)
	if err != nil {
		return err
	}
	if local != nil {
		dial, plain = local, false
	}
	if c.debug {
		dial = loggingPackets(dial, env.Stderr, o.Version, o.ClientID)
	}
	if !plain {
		o.DialContext = dial
	}
	return nil
}

// bound makes connections from the address of -A.
func (c *Connection) bound(rawURL string, config *tls.Config) (dialFunc, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, Usagef("-A: %v", err)
	}
	port, ok := map[string]string{"mqtt": "1883", "mqtts": "8883"}[u.Scheme]
	if !ok {
		return nil, Usagef("-A works with TCP and TLS: expected no %s", u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	host := u.Hostname()
	if host == "" {
		host = "127.0.0.1"
	}
	return func(ctx context.Context) (net.Conn, error) {
		from, err := net.DefaultResolver.LookupIPAddr(ctx, c.bind)
		if err != nil {
			return nil, fmt.Errorf("-A: %w", err)
		}
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from[0].IP, Zone: from[0].Zone}}
		if u.Scheme == "mqtts" {
			return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		}
		return d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	}, nil
}

// onThisMachine makes connections through admin.sock in a broker's data directory, if
// the flags name no broker and nobody to be. Where nobody listens there and --data was
// not given, it is otherwise. It is nil if the flags want something else.
func (c *Connection) onThisMachine(env *Env, otherwise dialFunc) (dialFunc, error) {
	named := c.host != "" || c.port != -1 || c.rawURL != "" || c.unix != "" || c.ws || c.bind != "" || c.tls.wanted()
	someone := c.user != "" || c.password != nil || c.props.Connect != nil && c.props.Connect.AuthenticationMethod != ""
	if c.data.given != "" && (named || someone) {
		return nil, Usagef("--data names the broker already, and who we are there: expected no -h, -p, -L, -u or the like beside it")
	}
	if !c.local || named || someone {
		return nil, nil
	}
	dir, err := c.data.Dir(env)
	if err != nil {
		return nil, nil // the configuration is the broker's; we are not here to judge it
	}
	byFile := func(ctx context.Context) (net.Conn, error) { return admin.DialMQTT(ctx, dir) }
	if c.data.given != "" {
		return byFile, nil
	}
	return byFileOr(byFile, otherwise, env.Stderr), nil
}

// byFileOr is byFile if a broker answers to the first connection, and otherwise from
// then on if none does: a client does not become somebody else in between.
func byFileOr(byFile, otherwise dialFunc, stderr io.Writer) dialFunc {
	var found, missed atomic.Bool
	return func(ctx context.Context) (net.Conn, error) {
		if missed.Load() {
			return otherwise(ctx)
		}
		nc, err := byFile(ctx)
		if err == nil {
			found.Store(true)
		}
		if found.Load() || !errors.Is(err, admin.ErrUnreachable) {
			return nc, err
		}
		if errors.Is(err, os.ErrPermission) {
			fmt.Fprintf(stderr, "The broker's admin.sock belongs to another user, connecting to 127.0.0.1 instead: %v\n", err)
		}
		missed.Store(true)
		return otherwise(ctx)
	}
}
