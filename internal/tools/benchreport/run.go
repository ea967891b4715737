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
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A result is what the load generator says about one run: its figures by name.
// Of ours are "run" (the scenario), "label" (the broker) and "round".
type result map[string]any

func (r result) number(key string) float64 {
	n, _ := r[key].(float64)
	return n
}

func (r result) text(key string) string {
	s, _ := r[key].(string)
	return s
}

// runTimeout ends a run that hangs; the longest takes about 30 s.
const runTimeout = 3 * time.Minute

// A bench measures every broker in every scenario, in turn.
type bench struct {
	options
	loadgen string
	brokers []broker
	log     io.Writer
}

// measure appends one JSON line per run to out. Rounds are the outermost loop
// and brokers the innermost (A B C A B C), so that a busy moment of the machine
// meets all of them. A lock keeps other measurements away meanwhile.
func (b *bench) measure(ctx context.Context, out io.Writer) error {
	unlock, err := lock(b.lock)
	if err != nil {
		return err
	}
	defer unlock()
	for round := range b.repeat {
		for _, s := range b.chosen() {
			for _, peer := range b.brokers {
				if err := ctx.Err(); err != nil {
					return err
				}
				r := b.one(ctx, s, peer)
				r["run"], r["label"], r["round"] = s.name, peer.name, round
				if err := json.NewEncoder(out).Encode(r); err != nil {
					return err
				}
				fmt.Fprintf(b.log, "round %d  %-12s %-10s %10.2f %-5s %9.0f/s  lost %.0f  %s\n", round+1, s.name, peer.name,
					r.number(s.metric.key), s.metric.unit, r.number("rate"), r.number("lost"), r.text("note"))
			}
		}
	}
	return nil
}

// chosen are the scenarios that -only selects.
func (b *bench) chosen() []scenario {
	var found []scenario
	for _, s := range scenarios {
		if b.only.MatchString(s.name) {
			found = append(found, s)
		}
	}
	return found
}

// one runs one scenario against a fresh broker in an empty directory. What goes
// wrong is a result as well: it stands in its note.
func (b *bench) one(ctx context.Context, s scenario, peer broker) result {
	r, err := b.try(ctx, s, peer)
	if err != nil {
		return result{"note": err.Error()}
	}
	return r
}

func (b *bench) try(ctx context.Context, s scenario, peer broker) (result, error) {
	l, err := newLayout()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(l.dir)
	pid, stop, err := peer.start(ctx, l)
	if err != nil {
		return nil, err
	}
	defer stop()

	args := strings.Fields(s.args)
	port := l.port
	if strings.Contains(s.args, "-tls") {
		port = l.tlsPort
	}
	args = append(args, "-addr", "127.0.0.1:"+port, "-pid", strconv.Itoa(pid), "-label", peer.name)
	if b.seconds > 0 {
		args = append(args, "-dur", strconv.FormatFloat(b.seconds, 'f', -1, 64))
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.loadgen, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var r result
	if jsonErr := json.Unmarshal([]byte(firstLine(string(out))), &r); jsonErr != nil {
		return nil, fmt.Errorf("loadgen %s: %v: %s%s", s.args, err, out, &stderr)
	}
	return r, nil // a scenario that went wrong says so in its note
}

// newLayout makes an empty directory with a certificate, and finds free ports.
func newLayout() (layout, error) {
	dir, err := os.MkdirTemp("", "fairlead-bench-")
	if err != nil {
		return layout{}, err
	}
	l := layout{dir: dir, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	// Debian's mosquitto gives up root and must still read its files.
	if err := os.Chmod(dir, 0o755); err != nil {
		return l, err
	}
	if err := selfSigned(l.cert, l.key); err != nil {
		return l, err
	}
	l.port, l.tlsPort, err = freePorts()
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
