package conformance

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// foreign reports whether the tests run against a broker that is not ours.
func foreign() bool { return os.Getenv("FAIRLEAD_CONFORMANCE_ADDR") != "" }

// addresses of the broker under test, by transport.
var addresses = map[string]string{}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	flag.Parse()
	if err := flag.Set("test.parallel", "64"); err != nil { // the scripts wait rather than work
		return 0, err
	}
	if foreign() {
		addresses["tcp"] = os.Getenv("FAIRLEAD_CONFORMANCE_ADDR")
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	stop, err := start(dir)
	if err != nil {
		return 0, err
	}
	defer stop()
	return m.Run(), nil
}

// config is our broker's, with limits that a test can reach.
const config = `
data: %[1]s/data
open: true
log: {level: error}
sys: {interval: 1s}
limits:
  receive_maximum: 10
  topic_alias_maximum: 5
  packet_bytes: 100000
  keep_alive_max: 1h
  connect_timeout: 2s
listeners:
  - mqtt://127.0.0.1:0
  - url: mqtts://127.0.0.1:0
    tls: {cert: %[1]s/cert.pem, key: %[1]s/key.pem}
  - ws://127.0.0.1:0
  - url: wss://127.0.0.1:0
    tls: {cert: %[1]s/cert.pem, key: %[1]s/key.pem}
`

// start builds our broker and runs it.
func start(dir string) (stop func(), err error) {
	binary := filepath.Join(dir, "fairlead")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "fairlead/cmd/fairlead").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	if err := certificate(dir); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "fairlead.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, dir), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "serve", "--config", file, "--log-level", "info")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := readAddresses(stderr); err != nil {
		cmd.Process.Kill()
		return nil, err
	}
	return func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}, nil
}

var listening = regexp.MustCompile(`msg=listening url=(mqtts?|wss?)://([0-9.:]+)`)

// readAddresses finds the real ports in the log.
func readAddresses(r io.Reader) error {
	names := map[string]string{"mqtt": "tcp", "mqtts": "tls", "ws": "ws", "wss": "wss"}
	lines := bufio.NewScanner(r)
	for len(addresses) < len(names) {
		if !lines.Scan() {
			return fmt.Errorf("the broker has ended: %w", lines.Err())
		}
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			addresses[names[m[1]]] = m[2]
		}
	}
	go io.Copy(io.Discard, r) // ends with the broker
	return nil
}

// certificate writes a self-signed one for 127.0.0.1.
func certificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// dial opens a Network Connection to the broker.
func dial(transport string) (net.Conn, error) {
	nc, err := net.DialTimeout("tcp", addresses[transport], patience)
	if err != nil {
		return nil, err
	}
	if transport == "tls" || transport == "wss" {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // it is made for this test
	}
	if transport == "ws" || transport == "wss" {
		c, _, err := dialWeb(nc, "mqtt")
		return c, err
	}
	return nc, nil
}

// webConn is the client's side of a WebSocket connection.
type webConn struct {
	net.Conn
	r    *bufio.Reader
	left int // payload bytes of the frame that is being read
}

// dialWeb asks for an upgrade and returns the answer's header, too.
func dialWeb(nc net.Conn, protocols string) (*webConn, string, error) {
	nc.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(nc, "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\n\r\n", protocols)
	c := &webConn{Conn: nc, r: bufio.NewReader(nc)}
	var header strings.Builder
	for !strings.HasSuffix(header.String(), "\r\n\r\n") {
		b, err := c.r.ReadByte()
		if err != nil {
			return nil, header.String(), fmt.Errorf("WebSocket upgrade: %w", err)
		}
		header.WriteByte(b)
	}
	if !strings.HasPrefix(header.String(), "HTTP/1.1 101") {
		return nil, header.String(), fmt.Errorf("WebSocket upgrade: %s", header.String())
	}
	return c, header.String(), nc.SetDeadline(time.Time{})
}

// Write sends b in frames that do not care for packets: each packet is cut, and
// packets share frames [MQTT-6.0.0-2].
func (c *webConn) Write(b []byte) (int, error) {
	var out bytes.Buffer
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/2)
		c.frame(&out, 2, rest[:n])
		rest = rest[n:]
	}
	_, err := c.Conn.Write(out.Bytes())
	return len(b), err
}

// frame appends one masked frame.
func (c *webConn) frame(out *bytes.Buffer, op byte, payload []byte) {
	out.WriteByte(0x80 | op)
	switch n := len(payload); {
	case n < 126:
		out.WriteByte(0x80 | byte(n))
	case n < 1<<16:
		out.WriteByte(0x80 | 126)
		out.Write(binary.BigEndian.AppendUint16(nil, uint16(n)))
	default:
		out.WriteByte(0x80 | 127)
		out.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	}
	mask := [4]byte{1, 2, 3, 4}
	out.Write(mask[:])
	for i, b := range payload {
		out.WriteByte(b ^ mask[i&3])
	}
}

func (c *webConn) Read(b []byte) (int, error) {
	for c.left == 0 {
		var head [2]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, err
		}
		c.left = int(head[1])
		if long := map[byte]int{126: 2, 127: 8}[head[1]]; long > 0 {
			size := make([]byte, 8)
			if _, err := io.ReadFull(c.r, size[8-long:]); err != nil {
				return 0, err
			}
			c.left = int(binary.BigEndian.Uint64(size))
		}
		switch head[0] & 0x0F {
		case 2, 0:
		case 8:
			return 0, io.EOF
		default:
			return 0, fmt.Errorf("frame with opcode %d", head[0]&0x0F)
		}
	}
	n, err := c.r.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
