package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// startTime is how long the broker may take from its start to its first CONNACK.
const startTime = 60 * time.Second

// plant is what the harness is tested with: a broker that surely forgets, or one
// that surely does not.
type plant string

const (
	plantAmnesia plant = "amnesia" // the data is deleted before each start
	plantPretend plant = "pretend" // only the connections die
)

// process is the broker under test: one command, started again and again on the
// same directory and port.
type process struct {
	binary string
	dir    string // holds data/ and serve.log
	addr   string
	flags  []string
	plant  plant

	inner     string     // with plantPretend: where the process listens
	pretender *pretender // with plantPretend: what dies instead of the process
	cmd       *exec.Cmd
	done      chan struct{} // closed when the process has ended
	err       error         // how it ended; valid once done is closed
}

// newProcess prepares a broker with its files in dir.
func newProcess(binary, dir string, flags []string, plant plant) (*process, error) {
	addr, err := freeAddr()
	return &process{binary: binary, dir: dir, addr: addr, flags: flags, plant: plant}, err
}

// freeAddr returns a loopback address that was free a moment ago. The port lies
// below those that the system gives to outgoing connections: a client that dials
// a dead port among them can be given that very port, and would keep the broker
// from it.
func freeAddr() (string, error) {
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(12_000+rand.IntN(18_000)))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no free port between 12000 and 30000")
}

func (p *process) log() string { return filepath.Join(p.dir, "serve.log") }

// start starts the command.
func (p *process) start() (err error) {
	if p.plant != plantPretend {
		return p.launch(p.addr)
	}
	if p.cmd == nil {
		if p.inner, err = freeAddr(); err == nil {
			err = p.launch(p.inner)
		}
		if err != nil {
			return err
		}
	}
	p.pretender, err = pretend(p.addr, p.inner)
	return err
}

// launch starts the process, listening at addr.
func (p *process) launch(addr string) error {
	data := filepath.Join(p.dir, "data")
	if p.plant == plantAmnesia {
		if err := os.RemoveAll(data); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	args := append([]string{"serve", "--data", data, "--listen", "mqtt://" + addr, "--open"}, p.flags...)
	cmd := exec.Command(p.binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// What FAIRLEAD_* says is a setting to the broker; here flags alone count.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FAIRLEAD_") })
	if err := cmd.Start(); err != nil {
		return errors.Join(err, out.Close())
	}
	done := make(chan struct{})
	p.cmd, p.done, p.err = cmd, done, nil
	go func() { // ends with the process; end waits for it
		p.err = errors.Join(cmd.Wait(), out.Close())
		close(done)
	}()
	return nil
}

// kill ends the process as a crash does, and returns when it has ended. The error
// says that it had ended already.
func (p *process) kill() error {
	if p.pretender != nil {
		err := p.pretender.die()
		p.pretender = nil
		return err
	}
	if err := p.end(); err != nil {
		return err
	}
	if !p.killed() {
		return fmt.Errorf("the broker had ended by itself: %w", p.err)
	}
	return nil
}

// close ends everything.
func (p *process) close() error {
	var err error
	if p.pretender != nil {
		err = p.pretender.die()
	}
	return errors.Join(err, p.end())
}

// end ends the process, if it has not ended yet.
func (p *process) end() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// killed reports whether the process has ended by SIGKILL.
func (p *process) killed() bool {
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// answers waits until the broker answers a CONNECT.
func (p *process) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		err := p.probe()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-p.done:
			return fmt.Errorf("the broker ended before it answered: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("no answer from %s: %w", p.addr, err)
		}
	}
}

// probe connects and waits for the CONNACK.
func (p *process) probe() error {
	nc, err := net.DialTimeout("tcp", p.addr, startTime)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(startTime)); err != nil {
		return err
	}
	b, err := packet.Append(nil, mqtt.V311, &packet.Connect{Version: mqtt.V311, CleanStart: true, ClientID: "probe"})
	if err != nil {
		return err
	}
	if _, err := nc.Write(b); err != nil {
		return err
	}
	r := packet.Reader{Version: mqtt.V311}
	got, err := next(&r, nc)
	if err != nil {
		return err
	}
	if ack, ok := got.(*packet.Connack); !ok || ack.Reason != mqtt.Success {
		return fmt.Errorf("CONNECT was answered by %v", got)
	}
	return nil
}

// next returns the next packet from src.
func next(r *packet.Reader, src io.Reader) (packet.Packet, error) {
	for {
		p, err := r.Next()
		if !errors.Is(err, packet.ErrMore) {
			return p, err
		}
		if n, err := r.Fill(src); n == 0 && err != nil {
			return nil, err
		}
	}
}

// tail is the last of what the broker wrote.
func (p *process) tail() string {
	const most = 4 << 10
	text, err := os.ReadFile(p.log())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
