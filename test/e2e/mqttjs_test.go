package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// node is one Node.js process that holds all MQTT.js clients of this run;
// test/mqttjs.mjs describes the lines that it reads and writes.
type node struct {
	stdin io.Writer

	mu      sync.Mutex // guards all below, and writing to stdin
	calls   int
	answers map[int]chan answer
	clients map[string]chan message
	ended   error // why no more answers come
}

// An answer is one line from Node.js: of a call, or a client's message.
type answer struct {
	Call    int      `json:"call"`
	Error   string   `json:"error"`
	OK      outcome  `json:"ok"`
	Client  string   `json:"client"`
	Message *message `json:"message"`
}

type outcome struct {
	SessionPresent bool `json:"sessionPresent"`
	QoS            byte `json:"qos"`
}

// command is one line to Node.js.
type command struct {
	Call    int      `json:"call"`
	Client  string   `json:"client"`
	Do      string   `json:"do"`
	URL     string   `json:"url,omitempty"`
	Version int      `json:"version"`
	Options any      `json:"options,omitempty"`
	Filter  string   `json:"filter,omitempty"`
	QoS     byte     `json:"qos"`
	Message *message `json:"message,omitempty"`
}

// lineMax bounds one line from Node.js: the largest payload in base64, and more.
const lineMax = 16 << 20

// startNode starts the process at the first use. It ends with this process, by
// the end of its standard input.
var startNode = sync.OnceValues(func() (*node, error) {
	dir := filepath.Join(repository, "test")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "mqtt")); err != nil {
		return nil, fmt.Errorf("MQTT.js is not installed: run the tests by `make test`, or `make setup` first: %w", err)
	}
	cmd := exec.Command("node", "mqttjs.mjs")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	n := &node{stdin: stdin, answers: make(map[int]chan answer), clients: make(map[string]chan message)}
	go n.read(stdout)
	return n, nil
})

// read hands out what Node.js says, until it says no more.
func (n *node) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, lineMax)
	for lines.Scan() {
		n.said(lines.Bytes())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = errors.Join(errors.New("the Node.js process said no more"), lines.Err())
	for _, waiting := range n.answers {
		close(waiting)
	}
	n.answers = nil
}

func (n *node) said(line []byte) {
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		a = answer{Error: fmt.Sprintf("%q: %v", line, err)}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.Message != nil {
		n.clients[a.Client] <- *a.Message
		return
	}
	if waiting := n.answers[a.Call]; waiting != nil {
		waiting <- a
		delete(n.answers, a.Call)
	}
}

// do sends one command and returns its outcome.
func (n *node) do(c command) (outcome, error) {
	waiting, err := n.send(c)
	if err != nil {
		return outcome{}, err
	}
	select {
	case a, ok := <-waiting:
		if !ok {
			return outcome{}, n.ended
		}
		if a.Error != "" {
			return outcome{}, errors.New(a.Error)
		}
		return a.OK, nil
	case <-time.After(patience):
		return outcome{}, errors.New("no answer")
	}
}

func (n *node) send(c command) (<-chan answer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended != nil {
		return nil, n.ended
	}
	n.calls++
	c.Call = n.calls
	line, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	waiting := make(chan answer, 1)
	n.answers[c.Call] = waiting
	_, err = n.stdin.Write(append(line, '\n'))
	return waiting, err
}

// mqttjs is one MQTT.js client.
type mqttjs struct {
	t       *testing.T
	node    *node
	name    string
	version int
	inbox   chan message
	present bool
	gone    bool // disconnected by the test
}

func dialMQTTJS(version int, tr transport) func(*testing.T, options) peer {
	return func(t *testing.T, o options) peer {
		t.Helper()
		n, err := startNode()
		if err != nil {
			t.Fatal(err)
		}
		p := &mqttjs{t: t, node: n, name: unique(), version: version, inbox: make(chan message, inbox)}
		n.mu.Lock()
		n.clients[p.name] = p.inbox
		n.mu.Unlock()
		connack := p.do("dial", command{URL: tr.url(), Options: struct {
			ID            string   `json:"id"`
			Resume        bool     `json:"resume"`
			SessionExpiry int      `json:"sessionExpiry"`
			Will          *message `json:"will,omitempty"`
		}{o.id, o.resume, sessionExpiry, o.will}})
		p.present = connack.SessionPresent
		t.Cleanup(func() {
			if !p.gone {
				p.disconnect()
			}
		})
		return p
	}
}

func (p *mqttjs) do(what string, c command) outcome {
	p.t.Helper()
	c.Do, c.Client, c.Version = what, p.name, p.version
	got, err := p.node.do(c)
	if err != nil {
		p.t.Fatalf("MQTT.js: %s: %v", what, err)
	}
	return got
}

func (p *mqttjs) sessionPresent() bool     { return p.present }
func (p *mqttjs) messages() <-chan message { return p.inbox }

func (p *mqttjs) subscribe(filter string, qos byte) {
	p.t.Helper()
	if granted := p.do("subscribe", command{Filter: filter, QoS: qos}).QoS; granted != qos {
		p.t.Fatalf("subscribe %s: granted %#x, want QoS %d", filter, granted, qos)
	}
}

func (p *mqttjs) publish(m message) {
	p.t.Helper()
	p.do("publish", command{Message: &m})
}

func (p *mqttjs) disconnect() {
	p.t.Helper()
	p.gone = true
	p.do("disconnect", command{})
}

func (p *mqttjs) abort() {
	p.t.Helper()
	p.gone = true
	p.do("abort", command{})
}
