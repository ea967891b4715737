package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// answerTime is what a broker has for the beginning of its answer. With a million
	// sessions on a busy machine it takes a second or two; a backup waits for the
	// checkpoint under way.
	answerTime = time.Minute
	// answerMax is the longest answer that is read, but for a backup.
	answerMax  = 256 << 20
	problemMax = 64 << 10
)

// Client asks a broker. Its methods may be called at the same time. What the broker
// refuses is a [*Problem].
type Client struct {
	http  *http.Client
	base  string // "https://HOST:PORT"
	where string // for errors
	token string
	dir   string // of the socket; empty: it is HTTPS
}

// ErrUnreachable says that no broker answers.
var ErrUnreachable = errors.New("no broker answers")

// Target says which broker is meant: give Dir or Server.
type Target struct {
	Dir    string // the data directory of a broker on this machine
	Server string // or the URL of its API: https://HOST:PORT
	Token  string // with Server: a token of an operator
	// TLS is, with Server, whom to trust, and an operator's certificate; nil: the
	// system's authorities, and none.
	TLS *tls.Config
}

// Connect returns a Client of a broker. With Dir it speaks to it at once, as [Dial]
// does; with Server it does so with the first question.
func Connect(ctx context.Context, t Target) (*Client, error) {
	switch {
	case t.Dir != "" && t.Server != "":
		return nil, errors.New("a data directory and a server: expected one of them")
	case t.Dir != "":
		return Dial(ctx, t.Dir)
	case t.Server == "":
		return nil, errors.New("neither a data directory nor a server: expected one of them")
	}
	u, err := url.Parse(t.Server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %.200q: expected https://HOST or https://HOST:PORT", t.Server)
	}
	return &Client{
		base: "https://" + u.Host, where: "https://" + u.Host, token: t.Token,
		http: &http.Client{CheckRedirect: stay, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: t.TLS.Clone(),
			TLSHandshakeTimeout: headerTime, ResponseHeaderTimeout: answerTime, IdleConnTimeout: time.Minute,
		}},
	}, nil
}

// stay follows no redirect: a token is for one server only.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Dial returns a Client of the broker that works on the data directory dir. It speaks
// to it at once: the error is ErrUnreachable if nobody is there.
func Dial(ctx context.Context, dir string) (*Client, error) {
	c := &Client{dir: dir, base: "http://fairlead", where: filepath.Join(dir, Socket)}
	nc, err := dialSocket(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrUnreachable, c.where, reason(err))
	}
	if err := nc.Close(); err != nil {
		return nil, err
	}
	c.http = &http.Client{CheckRedirect: stay, Transport: &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, dir) },
		ResponseHeaderTimeout: answerTime, DisableKeepAlives: true,
	}}
	return c, nil
}

// reason leaves out what the caller says better.
func reason(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

func dialSocket(ctx context.Context, dir string) (net.Conn, error) {
	short, done, err := shorten(filepath.Join(dir, Socket))
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", short)
}

// All asks for a list part by part and yields its items. An error is the last that it
// yields.
func All[T any](part func(after string) (*List[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for after := ""; ; {
			l, err := part(after)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, item := range l.Items {
				if !yield(item, nil) {
					return
				}
			}
			if l.Next == "" {
				return
			}
			after = l.Next
		}
	}
}

// A call is a question on its way.
type call struct {
	method string
	path   string
	query  url.Values
	body   any    // JSON; a text if it is a []byte
	match  string // If-Match; empty: none
}

// do asks, and returns an answer that says yes. The caller closes its body.
func (c *Client) do(ctx context.Context, q call) (*http.Response, error) {
	req, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unanswered(err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readProblem(resp)
}

func (c *Client) request(ctx context.Context, q call) (*http.Request, error) {
	var body io.Reader
	kind := ""
	switch b := q.body.(type) {
	case nil:
	case []byte:
		body, kind = bytes.NewReader(b), "text/yaml"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		body, kind = bytes.NewReader(text), "application/json"
	}
	target := c.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if q.match != "" {
		req.Header.Set("If-Match", q.match)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// unanswered says why there is no answer.
func (c *Client) unanswered(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w on %s: %w", ErrUnreachable, c.where, op.Err)
	}
	return fmt.Errorf("ask the broker: %w", err)
}

// readProblem reads the answer that says no.
func readProblem(resp *http.Response) error {
	p := new(Problem)
	err := json.NewDecoder(io.LimitReader(resp.Body, problemMax)).Decode(p)
	if err != nil || p.Detail == "" {
		return &Problem{Status: resp.StatusCode, Detail: "the broker answers " + resp.Status}
	}
	p.Status = resp.StatusCode
	return p
}

// ask asks a question whose answer is JSON.
func ask[T any](ctx context.Context, c *Client, q call) (*T, error) {
	resp, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer := new(T)
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerMax)).Decode(answer); err != nil {
		return nil, fmt.Errorf("%s %s: %w", q.method, q.path, err)
	}
	return answer, nil
}

// tell asks a question whose answer says nothing but yes.
func (c *Client) tell(ctx context.Context, q call) error {
	resp, err := c.do(ctx, q)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// read asks a question whose answer is a text.
func (c *Client) read(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.do(ctx, call{method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, answerMax))
}

// at makes a path; each part is one segment, whatever it holds.
func at(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, p := range parts {
		b.WriteByte('/')
		if strings.Trim(p, ".") == "" { // "." and ".." lead elsewhere
			b.WriteString(strings.Repeat("%2E", len(p)))
			continue
		}
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}

// query makes a query of pairs, leaving out what is empty.
func query(pairs ...string) url.Values {
	v := make(url.Values)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

func (p Page) add(v url.Values) url.Values {
	if p.After != "" {
		v.Set("after", p.After)
	}
	if p.Limit != 0 {
		v.Set("limit", strconv.Itoa(p.Limit))
	}
	return v
}

// number is a number of which 0 says nothing.
func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// Status asks how the broker fares, with the top biggest queues.
func (c *Client) Status(ctx context.Context, top int) (*Status, error) {
	return ask[Status](ctx, c, call{method: http.MethodGet, path: at("status"), query: query("top", strconv.Itoa(top))})
}

// Doctor asks what is insecure or about to end, worst first.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	f, err := ask[Findings](ctx, c, call{method: http.MethodGet, path: at("doctor")})
	if err != nil {
		return nil, err
	}
	return f.Findings, nil
}

// OpenAPI asks for the description of the API.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) { return c.read(ctx, at("openapi.json")) }
