package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fairlead/admin"
	"fairlead/client"
)

// options are those of a command line like pub's, in an environment that has the data
// directory dir.
func options(t *testing.T, dir string, args ...string) (client.Options, *bytes.Buffer, error) {
	t.Helper()
	var c Connection
	f := NewFlags()
	c.Flags(f)
	if _, err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	vars := []string{"FAIRLEAD_DATA=" + dir, "FAIRLEAD_TOKEN=x", "FAIRLEAD_PASSPHRASE=y"}
	o, err := c.Options(&Env{Stderr: &stderr, Getenv: func(string) string { return "" }, Environ: func() []string { return vars }})
	return o, &stderr, err
}

// socket answers on dir's admin.sock with one line, once it was asked to speak MQTT.
func socket(t *testing.T, dir string) *http.Server {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(dir, admin.Socket))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/mqtt" || r.Header.Get("Upgrade") != "mqtt" {
			t.Errorf("asked %s %v", r.URL, r.Header)
		}
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, err = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: mqtt\r\n\r\nthe socket")
		if err := errors.Join(err, nc.Close()); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan error)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() { server.Close(); <-done })
	return server
}

// dialed is what the broker says that a connection reaches.
func dialed(t *testing.T, o client.Options) (string, error) {
	t.Helper()
	nc, err := o.DialContext(t.Context())
	if err != nil {
		return "", err
	}
	defer nc.Close()
	b, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), nil
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl") // the path of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestOnThisMachine(t *testing.T) {
	dir := shortDir(t)
	server := socket(t, dir)
	for _, args := range [][]string{nil, {"-d"}, {"-i", "me", "-k", "5"}, {"--data", dir}} {
		o, stderr, err := options(t, dir, args...)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dialed(t, o); err != nil || got != "the socket" {
			t.Errorf("%q: reached %q, %v", args, got, err)
		}
		if strings.Join(args, "") == "-d" && !strings.HasPrefix(stderr.String(), "Client (null) received what is no packet") {
			t.Errorf("-d: %q", stderr)
		}
	}
	// Once it was reached so, it is waited for there.
	o, _, err := options(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialed(t, o); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := dialed(t, o); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("after the broker has gone: reached %q, %v", got, err)
	}
}

// TestNotOnThisMachine is about flags that name a broker, or who we are: admin.sock has
// no part in them.
func TestNotOnThisMachine(t *testing.T) {
	dir := shortDir(t)
	socket(t, dir)
	for _, args := range []string{
		"-h 127.0.0.1", "-p 1883", "-L mqtt://127.0.0.1", "--unix /x", "--ws", "--tls", "-u anna", "-P secret",
		"-D connect authentication-method SCRAM-SHA-256",
	} {
		o, _, err := options(t, dir, strings.Fields(args)...)
		if err != nil || o.DialContext != nil {
			t.Errorf("%s: %v, a way of its own to connect: %t", args, err, o.DialContext != nil)
		}
	}
	for _, args := range []string{"--data x -h localhost", "--data x -u anna", "--data x --ws", "-A 127.0.0.1 --ws", "-A 127.0.0.1 --unix /x"} {
		if _, _, err := options(t, dir, strings.Fields(args)...); ExitCode(err) != ExitUsage {
			t.Errorf("%s: %v, want a usage error", args, err)
		}
	}
}

// TestNobodyOnThisMachine falls back to TCP, unless the directory was named.
func TestNobodyOnThisMachine(t *testing.T) {
	dir := shortDir(t)
	c := &Connection{local: true, port: -1}
	env := &Env{Environ: func() []string { return []string{"FAIRLEAD_DATA=" + dir} }, Getenv: func(string) string { return "" }}
	tcp := errors.New("by TCP")
	count := 0
	otherwise := func(context.Context) (net.Conn, error) { count++; return nil, tcp }
	dial, err := c.onThisMachine(env, otherwise)
	if err != nil || dial == nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context()); !errors.Is(err, tcp) {
		t.Errorf("%v, want %v", err, tcp)
	}
	socket(t, dir) // too late: a client does not become somebody else in between
	if _, err := dial(t.Context()); !errors.Is(err, tcp) || count != 2 {
		t.Errorf("the second time: %v, want %v", err, tcp)
	}
	c.data.given = shortDir(t)
	if dial, err = c.onThisMachine(env, otherwise); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context()); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("a directory that was named: %v, want %v", err, admin.ErrUnreachable)
	}
	// A broken configuration is no reason not to try TCP.
	c.data.given = ""
	env.Environ = func() []string { return []string{"FAIRLEAD_DURABILITY=perhaps"} }
	if dial, err = c.onThisMachine(env, otherwise); dial != nil || err != nil {
		t.Errorf("broken configuration: %v, by admin.sock: %t", err, dial != nil)
	}
}

// TestBind connects from another address of this machine.
func TestBind(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from := make(chan string, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			close(from)
			return
		}
		host, _, _ := net.SplitHostPort(nc.RemoteAddr().String())
		from <- host
		nc.Close()
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	o, _, err := options(t, t.TempDir(), "-h", "127.0.0.1", "-p", port, "-A", "127.0.0.7")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialed(t, o); err != nil {
		t.Fatal(err)
	}
	if got := <-from; got != "127.0.0.7" {
		t.Errorf("connected from %q, want 127.0.0.7", got)
	}
}

// TestAnotherUsersBroker says why it goes another way.
func TestAnotherUsersBroker(t *testing.T) {
	var stderr bytes.Buffer
	tcp := errors.New("by TCP")
	dial := byFileOr(
		func(context.Context) (net.Conn, error) {
			return nil, fmt.Errorf("%w: %w", admin.ErrUnreachable, syscall.EACCES)
		},
		func(context.Context) (net.Conn, error) { return nil, tcp }, &stderr)
	for range 2 {
		if _, err := dial(t.Context()); !errors.Is(err, tcp) {
			t.Errorf("%v, want %v", err, tcp)
		}
	}
	if strings.Count(stderr.String(), "belongs to another user") != 1 {
		t.Errorf("said %q, want it once", &stderr)
	}
	// A broker that is there and says no is heard.
	no := errors.New("no")
	dial = byFileOr(func(context.Context) (net.Conn, error) { return nil, no }, func(context.Context) (net.Conn, error) { return nil, tcp }, &stderr)
	if _, err := dial(t.Context()); !errors.Is(err, no) {
		t.Errorf("%v, want %v", err, no)
	}
}
