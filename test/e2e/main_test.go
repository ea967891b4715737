package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen. It is no measure of
// speed: on a loaded machine everything still fits in it.
const patience = 30 * time.Second

// A broker is where the clients under test connect to.
type broker struct {
	host, port string // MQTT over TCP
	ws         string // URL of MQTT over WebSocket
}

func (b broker) addr() string { return net.JoinHostPort(b.host, b.port) }

// under is the broker of this run, set once by TestMain. All tests share it, as
// applications do; each keeps to topics and Client Identifiers of its own.
var under broker

// binary is the built fairlead command.
var binary string

// brokerVariable names another broker to run the same tests against, as
// "HOST:PORT ws://HOST:PORT/PATH": a test that every broker fails is suspect.
const brokerVariable = "E2E_BROKER"

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "fairlead-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if other := os.Getenv(brokerVariable); other != "" {
		if under, err = parseBroker(other); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}
	if binary, err = build(dir); err != nil {
		return 1, err
	}
	started, err := serve(dir)
	if err != nil {
		return 1, err
	}
	under = started.broker
	code := m.Run()
	return code, started.stop()
}

func parseBroker(s string) (broker, error) {
	addr, ws, ok := strings.Cut(s, " ")
	if !ok {
		return broker{}, fmt.Errorf("%s=%q: expected \"HOST:PORT ws://HOST:PORT/PATH\"", brokerVariable, s)
	}
	host, port, err := net.SplitHostPort(addr)
	return broker{host: host, port: port, ws: ws}, err
}

// build compiles the command into dir.
func build(dir string) (string, error) {
	path := filepath.Join(dir, "fairlead")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/fairlead")
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cmd/fairlead: %w\n%s", err, out)
	}
	return path, nil
}

// repository is the root of the sources, seen from this package.
const repository = "../.."

// A server is a running fairlead process.
type server struct {
	broker
	cmd  *exec.Cmd
	log  string        // path of what it wrote
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; valid once done is closed
}

// serve starts the command with its data below dir, on free loopback ports, and
// returns once it takes connections.
func serve(dir string) (*server, error) {
	port, wsPort, err := freePorts()
	if err != nil {
		return nil, err
	}
	s := &server{
		broker: broker{host: "127.0.0.1", port: port, ws: "ws://127.0.0.1:" + wsPort + "/mqtt"},
		log:    filepath.Join(dir, "serve.log"),
		done:   make(chan struct{}),
	}
	out, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(binary, "serve", "--data", filepath.Join(dir, "data"),
		"--listen", "mqtt://"+s.addr(), "--listen", s.ws, "--open")
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		s.err = errors.Join(s.cmd.Wait(), out.Close())
		close(s.done)
	}()
	for _, addr := range []string{s.addr(), "127.0.0.1:" + wsPort} {
		if err := s.awaitListener(addr); err != nil {
			return nil, errors.Join(err, s.cmd.Process.Kill())
		}
	}
	return s, nil
}

// awaitListener returns once addr takes a connection, or the process has ended.
func (s *server) awaitListener(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-again.C:
		case <-s.done:
			return fmt.Errorf("serve ended (%w) before %s took connections:\n%s", s.err, addr, s.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s takes no connections: %w:\n%s", addr, err, s.tail())
		}
	}
}

// stop asks the process to end and reports whether it did so cleanly.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("the broker was gone before the end: %w:\n%s", err, s.tail())
	}
	select {
	case <-s.done:
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("no end after SIGTERM:\n%s", s.tail()), s.cmd.Process.Kill())
	}
	if s.err != nil {
		return fmt.Errorf("end of serve: %w:\n%s", s.err, s.tail())
	}
	return nil
}

// tail is the last of what the process wrote.
func (s *server) tail() string {
	const most = 8 << 10
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// freePorts returns two loopback ports that were free a moment ago.
func freePorts() (first, second string, err error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer a.Close()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer b.Close()
	_, first, _ = net.SplitHostPort(a.Addr().String())
	_, second, _ = net.SplitHostPort(b.Addr().String())
	return first, second, nil
}
