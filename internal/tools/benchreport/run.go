package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A result is what one run has brought: figures by name. Of ours are "run" (the
// scenario), "label" (the broker) and "round"; "note" says what went wrong.
type result map[string]any

func (r result) number(key string) float64 {
	n, _ := r[key].(float64)
	return n
}

func (r result) text(key string) string {
	s, _ := r[key].(string)
	return s
}

// runTimeout ends a generator that hangs; the longest run takes about 30 s.
const runTimeout = 3 * time.Minute

// A bench measures every broker of a group in every scenario, in turn.
type bench struct {
	options
	group   group
	loadgen string // the generator of the group core
	brokers []broker
	fleets  map[string]*fleet // of the group security, by scenario
	log     io.Writer
}

// measure appends one JSON line per run to out. Rounds are the outermost loop
// and brokers the innermost (A B C A B C, or A B B A), so that a busy moment of the
// machine meets all of them. A lock keeps other measurements away meanwhile.
func (b *bench) measure(ctx context.Context, out io.Writer) error {
	unlock, err := lock(b.lock)
	if err != nil {
		return err
	}
	defer unlock()
	for round := range b.group.rounds(b.options) {
		for _, s := range b.chosen() {
			for _, broker := range b.turns(round) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if !s.suits(broker) || s.rounds != nil && round >= s.rounds(b.options) {
					continue
				}
				r := b.one(ctx, s, broker)
				r["run"], r["label"], r["round"] = s.name, broker.name, round
				if err := json.NewEncoder(out).Encode(r); err != nil {
					return err
				}
				fmt.Fprintf(b.log, "%s %d  %-13s %-15s %12.2f %-5s %9.0f/s  lost %.0f  %s\n", b.group.name, round+1, s.name, broker.name,
					r.number(s.metric.key), s.metric.unit, r.number("rate"), r.number("lost"), r.text("note"))
			}
		}
	}
	return nil
}

// chosen are the scenarios that -only selects.
func (b *bench) chosen() []scenario {
	var found []scenario
	for _, s := range b.group.scenarios {
		if b.only.MatchString(s.name) {
			found = append(found, s)
		}
	}
	return found
}

// turns is the order of the brokers in a round.
func (b *bench) turns(round int) []broker {
	order := slices.Clone(b.brokers)
	if b.group.swing && round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// one runs one scenario against a fresh broker in an empty directory. What goes
// wrong is a result as well: it stands in its note.
func (b *bench) one(ctx context.Context, s scenario, broker broker) result {
	r, err := b.try(ctx, s, broker)
	if r == nil {
		r = result{}
	}
	if err != nil {
		r["note"] = err.Error()
	}
	return r
}

func (b *bench) try(ctx context.Context, s scenario, broker broker) (result, error) {
	if s.measure != nil {
		return s.measure(ctx, b, broker)
	}
	l, err := newLayout(b.dir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(l.dir)
	if broker.probe != nil {
		return broker.probe(ctx, l.dir, b.publishing(s))
	}
	p, err := broker.start(ctx, l)
	if err != nil {
		return nil, err
	}
	defer p.end()
	r, err := b.generate(ctx, s, broker, l, p.Pid)
	if err != nil {
		select {
		case <-p.done: // that is the reason
			err = fmt.Errorf("the broker has ended: %s: %w", p.said(), err)
		default:
		}
	}
	return r, err
}

// publishing is for how many seconds `fairlead bench` publishes.
func (b *bench) publishing(s scenario) float64 {
	if b.seconds > 0 {
		return b.seconds
	}
	return s.seconds
}

// generate runs the load generator and reads what it says.
func (b *bench) generate(ctx context.Context, s scenario, broker broker, l layout, pid int) (result, error) {
	if b.group.name == "core" {
		return b.load(ctx, s, b.loadgenLine(s, broker, l, pid))
	}
	return b.load(ctx, s, b.benchLine(s, l, pid))
}

// load runs a command line that makes the load of the scenario.
func (b *bench) load(ctx context.Context, s scenario, line []string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopPatience
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var nested map[string]any
	if jsonErr := json.Unmarshal([]byte(firstLine(string(out))), &nested); jsonErr != nil {
		return nil, fmt.Errorf("%s: %v: %s%s", s.args, err, out, &stderr)
	}
	r := result{}
	flatten(r, "", nested)
	return r, nil // a scenario that went wrong says so in its note, or has lost something
}

// loadgenLine calls the load generator of the group core.
func (b *bench) loadgenLine(s scenario, broker broker, l layout, pid int) []string {
	port := l.port
	if strings.Contains(s.args, "-tls") {
		port = l.tlsPort
	}
	line := append([]string{b.loadgen}, s.flags()...)
	line = append(line, "-addr", "127.0.0.1:"+port, "-pid", strconv.Itoa(pid), "-label", broker.name)
	if b.seconds > 0 {
		line = append(line, "-dur", strconv.FormatFloat(b.seconds, 'f', -1, 64))
	}
	return line
}

// benchLine calls `fairlead bench`, in the version that every peer speaks.
func (b *bench) benchLine(s scenario, l layout, pid int) []string {
	line := append([]string{b.generator, "bench"}, s.flags()...)
	return append(line, "--json", "-V", "311", "-h", "127.0.0.1", "-p", l.port, "--pid", strconv.Itoa(pid),
		"--duration", strconv.FormatFloat(b.publishing(s), 'f', -1, 64))
}

// flatten gives the figures inside of others names with a dot: ack_us.p50.
func flatten(r result, prefix string, nested map[string]any) {
	for key, v := range nested {
		if inner, ok := v.(map[string]any); ok {
			flatten(r, prefix+key+".", inner)
			continue
		}
		r[prefix+key] = v
	}
}

// newLayout makes an empty directory with a certificate below dir, and finds free
// ports.
func newLayout(dir string) (layout, error) {
	dir, err := os.MkdirTemp(dir, "fairlead-bench-")
	if err != nil {
		return layout{}, err
	}
	l := layout{dir: dir, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	// Debian's mosquitto gives up root and must still read its files.
	err = errors.Join(os.Chmod(dir, 0o755), selfSigned(l.cert, l.key))
	if err == nil {
		l.port, l.tlsPort, err = freePorts()
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return l, err
}

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
	return portOf(a), portOf(b), nil
}

func portOf(l net.Listener) string {
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// selfSigned writes a throw-away certificate (ECDSA P-256) and its key. The
// generator does not verify it.
func selfSigned(cert, key string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return writeFiles("", map[string]string{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
	})
}

// lock waits until no other measurement runs on the machine.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil // closing gives the lock up
}
