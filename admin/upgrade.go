package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"fairlead/auth"
	"fairlead/listen"
)

// upgradeProtocol is what a connection over the socket can become.
const upgradeProtocol = "mqtt"

// DialMQTT opens an MQTT connection to the broker that works on the data directory
// dir, with the identity of the operator: the right to open the socket is the
// identity. The error is [ErrUnreachable] if nobody is there.
func DialMQTT(ctx context.Context, dir string) (net.Conn, error) {
	where := filepath.Join(dir, Socket)
	nc, err := dialSocket(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrUnreachable, where, reason(err))
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	up, err := askUpgrade(nc)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return up, nil
}

func askUpgrade(nc net.Conn) (net.Conn, error) {
	if err := nc.SetDeadline(time.Now().Add(headerTime)); err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodGet, "http://fairlead"+at("mqtt"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeProtocol)
	if err := req.Write(nc); err != nil {
		return nil, err
	}
	r := bufio.NewReader(nc)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, readProblem(resp)
	}
	if resp.Header.Get("Upgrade") != upgradeProtocol {
		return nil, errors.New("the broker switches to something else than MQTT")
	}
	return &upgraded{Conn: nc, first: r}, nc.SetDeadline(time.Time{})
}

// upgraded is a connection of which some bytes were read already.
type upgraded struct {
	net.Conn
	first *bufio.Reader // nil once it is empty
}

func (u *upgraded) Read(b []byte) (int, error) {
	if u.first != nil {
		if n := u.first.Buffered(); n > 0 {
			return io.LimitReader(u.first, int64(n)).Read(b)
		}
		u.first = nil
	}
	return u.Conn.Read(b)
}

// upgrade makes a connection over the socket one of MQTT, and the broker's.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if !asks(r.Header, "Connection", "upgrade") || !asks(r.Header, "Upgrade", upgradeProtocol) {
		w.Header().Set("Upgrade", upgradeProtocol)
		refuse(w, http.StatusUpgradeRequired, errors.New("expected Connection: Upgrade and Upgrade: "+upgradeProtocol))
		return
	}
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	_, err = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeProtocol+"\r\n\r\n")
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		s.o.Logger.Debug("a connection was not made one of MQTT", "err", err)
		nc.Close()
		return
	}
	info := listen.Info{Listener: Socket, Scheme: auth.SchemeAdmin, Remote: nc.RemoteAddr(), UID: callerOf(r.Context()).uid}
	go s.o.Broker.Serve(listen.Wrap(&upgraded{Conn: nc, first: buffered.Reader}, info)) // ends with the connection, which the broker closes
}

// asks reports whether a header has a word in its lists.
func asks(h http.Header, name, word string) bool {
	for _, line := range h.Values(name) {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), word) {
				return true
			}
		}
	}
	return false
}
