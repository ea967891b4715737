package auth

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// remote is an HTTP server that is asked about Clients: over TLS, or on this machine.
type remote struct {
	url    *url.URL
	client *http.Client
}

// newRemote checks the URL and makes the client. Over http the address that is dialled
// must be loopback, whatever a resolver says that "localhost" is.
func newRemote(raw string, conf *tls.Config, timeout time.Duration) (*remote, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%q is no URL: expected https://host/path", raw)
	}
	if u.User != nil {
		return nil, errors.New("a URL with a password in it: use a header")
	}
	dialer := &net.Dialer{Timeout: timeout}
	switch u.Scheme {
	case "https":
	case "http":
		dialer.Control = onlyLoopback
	default:
		return nil, fmt.Errorf("%q: expected https, or http on loopback", raw)
	}
	if u.Scheme == "http" && !meansLoopback(u.Hostname()) {
		return nil, fmt.Errorf("%q: http is for loopback only: expected https", raw)
	}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: timeout,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: hookAtOnce, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
	}
	return &remote{url: u, client: &http.Client{
		Transport: transport, Timeout: timeout,
		// Followed, a redirect would carry passwords to whoever the answer names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func meansLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func onlyLoopback(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("%s is not on this machine: use https", address)
	}
	return nil
}

// errStrange says that the server is there and its answer is none.
var errStrange = errors.New("expected JSON")

// statusError is an answer other than 200.
type statusError int

func (e statusError) Error() string {
	return fmt.Sprintf("it answered with status %d: expected 200", int(e))
}

// do sends a request and returns the body of a 200, of at most max bytes.
func (r *remote) do(req *http.Request, most int64) ([]byte, *http.Response, error) {
	resp, err := r.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may have a secret in its query
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, statusError(resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(body)) > most {
		return nil, nil, fmt.Errorf("its answer has more than %d bytes: %w", most, errStrange)
	}
	return body, resp, nil
}
