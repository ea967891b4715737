package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"
)

// answerTime is what a broker has for the beginning of its answer. With a million
// sessions on a busy machine it takes a second or two; a backup waits for the
// checkpoint under way.
const answerTime = time.Minute

// Client asks the broker that works on a data directory.
type Client struct {
	http *http.Client
	dir  string
}

// ErrUnreachable says that no broker answers for a data directory.
var ErrUnreachable = errors.New("no broker answers")

// Dial returns a Client of the broker that works on the data directory dir. It speaks
// to it at once: the error is ErrUnreachable if nobody is there.
func Dial(ctx context.Context, dir string) (*Client, error) {
	c := &Client{dir: dir}
	nc, err := c.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrUnreachable, filepath.Join(dir, Socket), reason(err))
	}
	if err := nc.Close(); err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
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

func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	short, done, err := shorten(filepath.Join(c.dir, Socket))
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", short)
}

// Status asks how the broker fares, with the top biggest queues.
func (c *Client) Status(ctx context.Context, top int) (*Status, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/status?top="+strconv.Itoa(top))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var s Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	return &s, nil
}

// Backup asks for a backup and lets f read it. If the stream ends early, the error
// says why, as far as the broker could tell.
func (c *Client) Backup(ctx context.Context, f func(io.Reader) error) error {
	resp, err := c.do(ctx, http.MethodPost, "/v1/backup")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = f(resp.Body)
	if why := resp.Trailer.Get(errorTrailer); why != "" {
		return fmt.Errorf("the broker broke it off: %s", why)
	}
	return err
}

func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return nil, fmt.Errorf("ask the broker: %w", e.Err)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var r refusal
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&r); err != nil || r.Error == "" {
		return nil, fmt.Errorf("the broker answers %s", resp.Status)
	}
	return nil, errors.New(r.Error)
}
