package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A script is one conversation of testdata/v*.txt:
//
//	== what it shows
//	covers MQTT-4.3.3-10            statements, in the numbering of its version
//	a> connect id=$I-a              client a sends; connect opens a connection
//	a< connack code=00              the next packet has these fields, among others
//	a< publish msg=x !retain        ... and no such field
//	a< nothing                      nothing but the answer to a PINGREQ
//	a< end 82                       DISCONNECT with one of these codes, and the end
//	a< refused 85                   CONNACK with one of these codes, and the end
//	a< closed                       the end; a DISCONNECT may come before it
//	a> publish qos=2 release        with its PUBREL right behind it
//	a> drop                         the connection is cut
//	sleep 1500ms
//
// $I is a Client Identifier and $T a Topic Name that no other test uses. A value
// may stand in quotes, as in Go. "versions" says in which ones a script runs; the
// file's name says the standard. Each runs on all transports.
type script struct {
	file, title string
	covers      []string
	versions    []int
	own         bool // only with our own broker and its configuration
	lines       []string
	at          int // line number of the first of them
}

// transports in the order of the modes.
var allTransports = []string{"tcp", "tls", "ws", "wss"}

func scripts(t testing.TB) []*script {
	files, err := filepath.Glob("testdata/v*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %v, %v", files, err)
	}
	var all []*script
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parseScripts(t, file, string(data))...)
	}
	return all
}

func parseScripts(t testing.TB, file, data string) (all []*script) {
	versions := []int{5}
	if strings.HasPrefix(filepath.Base(file), "v3") {
		versions = []int{3, 4}
	}
	var s *script
	for i, line := range strings.Split(data, "\n") {
		line = strings.TrimSpace(line)
		key, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case key == "==":
			s = &script{file: filepath.Base(file), title: rest, versions: versions, at: i + 1}
			all = append(all, s)
		case s == nil:
			t.Fatalf("%s:%d: expected == TITLE", file, i+1)
		case key == "covers":
			s.covers = append(s.covers, strings.Fields(rest)...)
		case key == "versions":
			s.versions = nil
			for _, v := range strings.Fields(rest) {
				s.versions = append(s.versions, num(v))
			}
		case key == "own":
			s.own = true
		default:
			s.lines = append(s.lines, fmt.Sprintf("%d %s", i+1, line))
		}
	}
	return all
}

// TestStatements plays all scripts, each in all its modes.
func TestStatements(t *testing.T) {
	for _, s := range scripts(t) {
		if s.own && foreign() {
			continue
		}
		for _, v := range s.versions {
			for _, transport := range allTransports {
				if foreign() && transport != "tcp" {
					continue
				}
				name := fmt.Sprintf("%s/%s/%s-%s", strings.TrimSuffix(s.file, ".txt"), s.title, versionNames[v], transport)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					newTalk(t, s, v, transport).play()
				})
			}
		}
	}
}

var versionNames = map[int]string{3: "3.1", 4: "3.1.1", 5: "5.0"}

// talk is a script that is being played.
type talk struct {
	*testing.T
	s         *script
	v         int
	transport string
	unique    string
	clients   map[string]*client
	log       []string
}

type client struct {
	nc     net.Conn
	r      *bufio.Reader
	v      int
	nextID int
}

var counter atomic.Int64

func newTalk(t *testing.T, s *script, v int, transport string) *talk {
	// The Z ends the number: else client a of number 7 were $I of number 7a.
	unique := "c" + strconv.FormatInt(int64(os.Getpid()), 36) + "x" + strconv.FormatInt(counter.Add(1), 36) + "Z"
	return &talk{t, s, v, transport, unique, map[string]*client{}, nil}
}

// patience is how long an answer may take.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("FAIRLEAD_CONFORMANCE_TIMEOUT")); err == nil {
		return d
	}
	return 10 * time.Second
}()

func (k *talk) play() {
	defer func() {
		for _, c := range k.clients {
			c.nc.Close()
		}
		if k.Failed() {
			k.Logf("%s, what was said:\n%s", k.s.file, strings.Join(k.log, "\n"))
		}
	}()
	for _, line := range k.s.lines {
		at, rest, _ := strings.Cut(line, " ")
		k.log = append(k.log, fmt.Sprintf("%s:%s: %s", k.s.file, at, rest))
		if d, ok := strings.CutPrefix(rest, "sleep "); ok {
			pause, err := time.ParseDuration(d)
			if err != nil {
				k.Fatal(err)
			}
			<-time.After(pause) // the broker is another process: its Keep Alive and expiries run in real time
			continue
		}
		if err := k.line(strings.ReplaceAll(strings.ReplaceAll(rest, "$I", k.unique), "$T", k.unique+"t")); err != nil {
			k.Fatalf("%s:%s: %s: %v", k.s.file, at, rest, err)
		}
	}
}

func (k *talk) line(line string) error {
	if name, what, ok := strings.Cut(line, "> "); ok && !strings.ContainsAny(name, " <") {
		return k.send(name, what)
	}
	if name, what, ok := strings.Cut(line, "< "); ok && !strings.Contains(name, " ") {
		return k.expect(name, what)
	}
	return errors.New("expected NAME> or NAME<")
}

// tokens cuts a line into words; values may be quoted.
func tokens(line string) (verb string, w words) {
	verb, line, _ = strings.Cut(line, " ")
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		end := strings.IndexAny(line, " =")
		if end < 0 || line[end] == ' ' {
			key, rest, _ := strings.Cut(line, " ")
			w, line = append(w, token{key: key}), rest
			continue
		}
		key := line[:end]
		line = line[end+1:]
		var val string
		if strings.HasPrefix(line, `"`) {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				panic(line)
			}
			val, _ = strconv.Unquote(quoted)
			line = line[len(quoted):]
		} else {
			val, line, _ = strings.Cut(line, " ")
		}
		w = append(w, token{key, val, true})
	}
	return verb, w
}

func (k *talk) send(name, what string) error {
	verb, w := tokens(what)
	if verb == "connect" || verb == "dial" || k.clients[name] == nil {
		if verb != "connect" || k.clients[name] == nil || !w.is("again") {
			c, err := dial(k.transport)
			if err != nil {
				return err
			}
			if old := k.clients[name]; old != nil {
				old.nc.Close()
			}
			k.clients[name] = &client{nc: c, r: bufio.NewReader(c), v: w.num("v", k.v)}
		}
	}
	c := k.clients[name]
	switch verb {
	case "dial":
		return nil
	case "drop":
		return c.nc.Close()
	case "raw":
		return k.write(c, raw(strings.TrimPrefix(what, "raw ")))
	}
	if verb == "connect" && !w.is("id") {
		w = append(w, token{"id", k.unique + name, true})
	}
	for range w.num("times", 1) {
		one := w
		if !w.is("id") {
			c.nextID++
			one = append(slices.Clone(w), token{"id", strconv.Itoa(c.nextID), true})
		}
		b := encode(c.v, verb, one)
		if w.is("release") { // a QoS 2 PUBLISH with its PUBREL: some brokers wait for that
			b = append(b, encode(c.v, "pubrel", words{{"id", one.get("id", ""), true}})...)
		}
		if err := k.write(c, b); err != nil {
			return err
		}
	}
	return nil
}

func (k *talk) write(c *client, b []byte) error {
	if len(b) < 200 {
		k.log = append(k.log, fmt.Sprintf("    -> %x", b))
	}
	c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.nc.Write(b); err != nil && !gone(err) {
		return err
	}
	return nil
}

// gone reports whether the peer has closed the connection.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "connection reset") || strings.Contains(err.Error(), "broken pipe") ||
		strings.Contains(err.Error(), "use of closed")
}

func (k *talk) next(c *client) (got, error) {
	c.nc.SetReadDeadline(time.Now().Add(patience))
	g, err := read(c.r, c.v)
	if err == nil {
		k.log = append(k.log, "    <- "+g.String())
	} else {
		k.log = append(k.log, "    <- "+err.Error())
	}
	return g, err
}

func (k *talk) expect(name, what string) error {
	c := k.clients[name]
	if c == nil {
		return fmt.Errorf("%s has no connection", name)
	}
	verb, w := tokens(what)
	switch verb {
	case "closed", "end", "refused":
		return k.expectEnd(c, verb, w)
	case "nothing":
		if err := k.write(c, []byte{0xC0, 0}); err != nil {
			return err
		}
		verb = "pingresp"
	}
	for range w.num("times", 1) {
		g, err := k.next(c)
		for err == nil && w.is("eventually") && mismatch(g, verb, w) != nil {
			g, err = k.next(c)
		}
		if err != nil {
			return err
		}
		if err := mismatch(g, verb, w); err != nil {
			return err
		}
	}
	return nil
}

// mismatch says what is wrong with a packet.
func mismatch(g got, verb string, w words) error {
	if g.verb != verb {
		return fmt.Errorf("got %s, want %s", g, verb)
	}
	for _, t := range w {
		switch key, not := strings.CutPrefix(t.key, "!"); {
		case t.key == "times" || t.key == "eventually":
		case not:
			if _, ok := g.fields[key]; ok {
				return fmt.Errorf("got %s, want no %s", g, key)
			}
		case !t.has:
			if v, ok := g.fields[key]; !ok || v == "0" {
				return fmt.Errorf("got %s, want %s", g, key)
			}
		case !slices.Contains(strings.Split(t.val, "|"), g.fields[key]):
			return fmt.Errorf("got %s, want %s=%q", g, key, t.val)
		}
	}
	if extra, ok := g.fields["left-over"]; ok {
		return fmt.Errorf("got %s, with %s behind it", g, extra)
	}
	return nil
}

// expectEnd reads up to the end of the connection. Our own broker must say why
// it ends, wherever the standard has a word for it; others may.
func (k *talk) expectEnd(c *client, verb string, w words) error {
	said := ""
	for {
		g, err := k.next(c)
		if err != nil && gone(err) {
			break
		}
		if err != nil {
			return fmt.Errorf("the connection is not closed: %w", err)
		}
		if said != "" && (g.verb == "disconnect" || g.verb == "connack") {
			return fmt.Errorf("got %s after the last word", g)
		}
		if g.verb == "disconnect" || g.verb == "connack" {
			said = g.verb + " " + g.fields["code"]
		} else if verb == "refused" {
			return fmt.Errorf("got %s, want no more than a CONNACK", g)
		}
	}
	word := map[string]string{"end": "disconnect", "refused": "connack"}[verb]
	if word == "" || len(w) == 0 || word == "disconnect" && c.v < 5 {
		return nil
	}
	if said == "" && foreign() {
		return nil
	}
	for _, t := range w {
		if said == word+" "+t.key {
			return nil
		}
	}
	return fmt.Errorf("the last word is %q, want %s with %v", said, word, w)
}
