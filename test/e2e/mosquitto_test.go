package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// mosquittoVersions are the values of -V.
var mosquittoVersions = []string{"mqttv31", "mqttv311", "mqttv5"}

// tool runs one of Mosquitto's commands to its end and returns what it wrote to
// its standard output.
func tool(t *testing.T, stdin io.Reader, name string, args ...string) string {
	t.Helper()
	out, err := runTool(stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func runTool(stdin io.Reader, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, append([]string{"-h", under.host, "-p", under.port}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	// The tools report some refusals in words only, and leave with 0.
	if err != nil || strings.Contains(stderr.String(), "rror") {
		return "", fmt.Errorf("%v: %v: %s%s", cmd.Args[5:], err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// pub runs mosquitto_pub.
func pub(t *testing.T, version string, args ...string) {
	t.Helper()
	tool(t, nil, "mosquitto_pub", append([]string{"-V", version}, args...)...)
}

// line is what mosquitto_sub is told to print for a message; the payload is in
// hexadecimal, and the topic, which may hold anything, comes last.
const line = "MSG|%q|%r|%x|%C|%R|%P|%t"

func parseLine(s string) (message, bool) {
	f := strings.SplitN(s, "|", 8)
	if len(f) != 8 || f[0] != "MSG" {
		return message{}, false
	}
	payload, err := hex.DecodeString(f[3])
	if err != nil {
		return message{}, false
	}
	m := message{Topic: f[7], Payload: payload, QoS: f[1][0] - '0', Retain: f[2] == "1"}
	m.V5.ContentType, m.V5.ResponseTopic = f[4], f[5]
	for _, pair := range strings.Fields(f[6]) {
		name, value, _ := strings.Cut(pair, ":")
		m.V5.User = append(m.V5.User, [2]string{name, value})
	}
	return m, true
}

// A subscriber is a running mosquitto_sub. Only its messages are of interest, so
// the rest of peer is left to the tool's flags.
type subscriber struct {
	t     *testing.T
	cmd   *exec.Cmd
	inbox chan message
	done  chan struct{}
}

// sub starts mosquitto_sub and returns once its subscriptions are acknowledged.
func sub(t *testing.T, version string, args ...string) *subscriber {
	t.Helper()
	// Without a terminal the tool would hold its lines back: stdbuf asks for
	// each as it comes. -d makes it say when it is subscribed.
	full := append([]string{"-oL", "mosquitto_sub", "-h", under.host, "-p", under.port, "-V", version, "-d", "-F", line}, args...)
	s := &subscriber{t: t, cmd: exec.Command("stdbuf", full...), inbox: make(chan message, inbox), done: make(chan struct{})}
	s.cmd.Stderr = os.Stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	subscribed := make(chan struct{})
	go s.read(stdout, subscribed)
	t.Cleanup(s.kill)
	select {
	case <-subscribed:
	case <-s.done:
		t.Fatalf("mosquitto_sub %v ended before it was subscribed", args)
	case <-time.After(patience):
		t.Fatalf("mosquitto_sub %v does not get subscribed", args)
	}
	return s
}

func (s *subscriber) read(stdout io.Reader, subscribed chan<- struct{}) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, lineMax)
	for lines.Scan() {
		if m, ok := parseLine(lines.Text()); ok {
			s.inbox <- m
		}
		if strings.HasPrefix(lines.Text(), "Subscribed ") && subscribed != nil {
			close(subscribed)
			subscribed = nil
		}
	}
	_ = s.cmd.Wait() // how it ended is of no interest: it is killed as a rule
	close(s.done)
}

// kill ends the client without DISCONNECT, and waits for its end.
func (s *subscriber) kill() {
	_ = s.cmd.Process.Kill() // fails only if the process has ended
	<-s.done
}

func (s *subscriber) want(w message) {
	s.t.Helper()
	select {
	case got := <-s.inbox:
		if got.Topic != w.Topic || !bytes.Equal(got.Payload, w.Payload) || got.QoS != w.QoS || got.Retain != w.Retain {
			s.t.Fatalf("mosquitto_sub got %v, want %v", got, w)
		}
	case <-time.After(patience):
		s.t.Fatalf("mosquitto_sub got nothing, want %v", w)
	}
}

// TestMosquitto runs the scenarios of Mosquitto's command line clients.
func TestMosquitto(t *testing.T) {
	scenarios := []struct {
		name string
		run  func(t *testing.T, version string)
	}{
		{"QoS", mosquittoQoS},
		{"Retained", mosquittoRetained},
		{"Will", mosquittoWill},
		{"Resume", mosquittoResume},
		{"SharedSubscription", mosquittoShared},
		{"Payloads", mosquittoPayloads},
	}
	for _, version := range mosquittoVersions {
		t.Run(version, func(t *testing.T) {
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					s.run(t, version)
				})
			}
		})
	}
}

// mosquittoQoS: from a publisher of each version, at each QoS.
func mosquittoQoS(t *testing.T, version string) {
	name := unique()
	s := sub(t, version, "-q", "2", "-t", name+"/#")
	for _, from := range mosquittoVersions {
		for qos := range byte(3) {
			m := text(name+"/"+from, fmt.Sprint("QoS ", qos), qos)
			pub(t, from, "-q", fmt.Sprint(qos), "-t", m.Topic, "-m", string(m.Payload))
			s.want(m)
		}
	}
}

func mosquittoRetained(t *testing.T, version string) {
	name := unique()
	pub(t, version, "-r", "-q", "1", "-t", name+"/kept", "-m", "last known")
	s := sub(t, version, "-q", "1", "-t", name+"/#")
	s.want(message{Topic: name + "/kept", Payload: []byte("last known"), QoS: 1, Retain: true})

	pub(t, version, "-r", "-q", "1", "-t", name+"/kept", "-n") // removes it
	s.want(text(name+"/kept", "", 1))
	later := sub(t, version, "-q", "1", "-t", name+"/#")
	pub(t, version, "-q", "1", "-t", name+"/end", "-m", ".")
	later.want(text(name+"/end", ".", 1))
}

func mosquittoWill(t *testing.T, version string) {
	name := unique()
	watcher := sub(t, version, "-q", "2", "-t", name+"/will")
	doomed := sub(t, version, "-t", name+"/nothing",
		"--will-topic", name+"/will", "--will-payload", "killed", "--will-qos", "2")
	doomed.kill()
	watcher.want(text(name+"/will", "killed", 2))
}

func mosquittoResume(t *testing.T, version string) {
	name := unique()
	session := []string{"-c", "-i", name, "-q", "2", "-t", name}
	tool(t, nil, "mosquitto_sub", append([]string{"-V", version, "-E"}, session...)...) // -E: leave once subscribed
	var lines strings.Builder
	for i := range 30 {
		fmt.Fprintln(&lines, "message", i)
	}
	tool(t, strings.NewReader(lines.String()), "mosquitto_pub", "-V", version, "-q", "2", "-t", name, "-l")
	got := tool(t, nil, "mosquitto_sub", append([]string{"-V", version, "-C", "30", "-F", "%p"}, session...)...)
	if got != lines.String() {
		t.Errorf("on its return the session got %q, want %q", got, lines.String())
	}
}

// mosquittoShared: each line goes to exactly one member.
func mosquittoShared(t *testing.T, version string) {
	name := unique()
	members := make([]*subscriber, 3)
	for i := range members {
		members[i] = sub(t, version, "-q", "1", "-t", "$share/g/"+name+"/work", "-t", name+"/end")
	}
	var lines strings.Builder
	var sent, got []string
	for i := range 30 {
		sent = append(sent, fmt.Sprintf("job %02d", i))
		fmt.Fprintln(&lines, sent[i])
	}
	tool(t, strings.NewReader(lines.String()), "mosquitto_pub", "-V", version, "-q", "1", "-t", name+"/work", "-l")
	pub(t, version, "-q", "1", "-t", name+"/end", "-m", ".")
	for _, m := range members {
		for job := m.next(); job.Topic != name+"/end"; job = m.next() {
			got = append(got, string(job.Payload))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, sent) {
		t.Errorf("the members got %q, want each of %q once", got, sent)
	}
}

func (s *subscriber) next() message {
	s.t.Helper()
	select {
	case m := <-s.inbox:
		return m
	case <-time.After(patience):
		s.t.Fatal("mosquitto_sub got nothing")
		return message{}
	}
}

// mosquittoPayloads: none, a mebibyte of every byte, a topic in several scripts.
func mosquittoPayloads(t *testing.T, version string) {
	name := unique()
	s := sub(t, version, "-q", "1", "-t", name+"/#")
	pub(t, version, "-q", "1", "-t", name+"/empty", "-n")
	s.want(text(name+"/empty", "", 1))

	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(i)
	}
	file := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	pub(t, version, "-q", "1", "-t", name+"/big", "-f", file)
	s.want(message{Topic: name + "/big", Payload: big, QoS: 1})

	topic := name + "/Straße/температура/温度"
	pub(t, version, "-q", "1", "-t", topic, "-m", "ü")
	s.want(text(topic, "ü", 1))
}

// TestMosquittoProperties: what 5.0 adds travels from tool to tool.
func TestMosquittoProperties(t *testing.T) {
	name := unique()
	s := sub(t, "mqttv5", "-q", "1", "-t", name)
	pub(t, "mqttv5", "-q", "1", "-t", name, "-m", "{}",
		"-D", "publish", "content-type", "application/json",
		"-D", "publish", "response-topic", name+"/reply",
		"-D", "publish", "user-property", "b", "1",
		"-D", "publish", "user-property", "a", "2",
		"-D", "publish", "user-property", "b", "3")
	got := s.next()
	want := properties{ContentType: "application/json", ResponseTopic: name + "/reply", User: [][2]string{{"b", "1"}, {"a", "2"}, {"b", "3"}}}
	if got.V5.ContentType != want.ContentType || got.V5.ResponseTopic != want.ResponseTopic || !slices.Equal(got.V5.User, want.User) {
		t.Errorf("properties %+v, want %+v", got.V5, want)
	}
}

// TestMosquittoTopicAlias: after the first line the tool sends the alias alone.
func TestMosquittoTopicAlias(t *testing.T) {
	name := unique()
	s := sub(t, "mqttv311", "-q", "1", "-t", name)
	tool(t, strings.NewReader("one\ntwo\nthree\n"), "mosquitto_pub", "-V", "mqttv5", "-q", "1", "-t", name, "-l", "-D", "publish", "topic-alias", "4")
	for _, payload := range []string{"one", "two", "three"} {
		s.want(text(name, payload, 1))
	}
}

// TestMosquittoRequestResponse: mosquitto_rr asks, a Paho client answers where
// it is told to.
func TestMosquittoRequestResponse(t *testing.T) {
	name := unique()
	service := dialPaho5(t, options{id: name + "srv"})
	service.subscribe(name+"/request", 1)
	answer := make(chan string, 1)
	go func() {
		out, err := runTool(nil, "mosquitto_rr", "-q", "1", "-t", name+"/request", "-e", name+"/reply", "-m", "6 × 7", "-W", "20")
		if err != nil {
			out = err.Error()
		}
		answer <- out
	}()
	asked := want(t, service, text(name+"/request", "6 × 7", 1))
	service.publish(message{Topic: asked.V5.ResponseTopic, Payload: []byte("42"), QoS: 1, V5: properties{CorrelationData: asked.V5.CorrelationData}})
	if got := <-answer; got != "42\n" {
		t.Errorf("mosquitto_rr printed %q, want the answer", got)
	}
}
