// Package clitest is the outside of a command in tests: a command line with its output,
// and a broker that gives the answers it was told. Begin with [Run] and [NewBroker].
package clitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"fairlead/admin"
	"fairlead/cli"
)

// Result is what a command line did.
type Result struct {
	Code     int
	Out, Err string
}

// Run runs a command line below c, with stdin as its standard input and an empty
// environment.
func Run(t *testing.T, c *cli.Command, stdin string, args ...string) Result {
	t.Helper()
	return RunWith(t, c, nil, stdin, args...)
}

// RunWith is Run with variables of the environment, each NAME=value.
func RunWith(t *testing.T, c *cli.Command, vars []string, stdin string, args ...string) Result {
	t.Helper()
	var out, err bytes.Buffer
	env := &cli.Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &err,
		Getenv: func(name string) string {
			for _, v := range vars {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		},
		Environ: func() []string { return vars },
	}
	code := cli.Main(t.Context(), env, c, args)
	return Result{Code: code, Out: out.String(), Err: err.String()}
}

// Want checks a result: its exit code, its whole standard output, and something that
// standard error has to hold; empty: nothing may stand there.
func (r Result) Want(t *testing.T, code int, out, err string) {
	t.Helper()
	if r.Code != code || r.Out != out || err == "" && r.Err != "" || !strings.Contains(r.Err, err) {
		t.Errorf("exit code %d, standard output:\n%sstandard error:\n%swant exit code %d, standard output:\n%sand in standard error: %q", r.Code, r.Out, r.Err, code, out, err)
	}
}

// Broker answers on admin.sock in Dir.
type Broker struct {
	Dir string

	t       *testing.T
	mu      sync.Mutex // guards what follows
	answers map[string]answer
	asked   []Asked
}

type answer struct {
	status int
	body   any
}

// Asked is a question that was asked.
type Asked struct {
	Question string // "GET /v1/devices?limit=1000"
	Body     string
	Header   http.Header
}

// NewBroker returns a Broker that knows no answer yet. It ends with the test.
func NewBroker(t *testing.T) *Broker {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl") // shorter than t.TempDir: the path of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, admin.Socket))
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{Dir: dir, t: t, answers: make(map[string]answer)}
	server := &http.Server{Handler: b}
	done := make(chan error)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
		os.RemoveAll(dir)
	})
	return b
}

// On makes b answer a question with JSON, or with bytes as they are. A question is
// method, path and query; the answer to one without the query is for any query.
func (b *Broker) On(question string, body any) { b.set(question, answer{http.StatusOK, body}) }

// Refuse makes b refuse a question.
func (b *Broker) Refuse(question string, status int, detail string) {
	b.set(question, answer{status, admin.Problem{Status: status, Title: http.StatusText(status), Detail: detail}})
}

func (b *Broker) set(question string, a answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[question] = a
}

// Asked returns the questions since the last call.
func (b *Broker) Asked() []Asked {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.asked
	b.asked = nil
	return list
}

// WantAsked checks the questions since the last call: each is what Question says, and
// behind a space the body, if there is one.
func (b *Broker) WantAsked(want ...string) {
	b.t.Helper()
	var got []string
	for _, a := range b.Asked() {
		got = append(got, strings.TrimSpace(a.Question+" "+a.Body))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		b.t.Errorf("asked:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// ServeHTTP implements http.Handler.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	question := r.Method + " " + r.URL.RequestURI()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	b.mu.Lock()
	b.asked = append(b.asked, Asked{Question: question, Body: string(body), Header: r.Header})
	a, ok := b.answers[question]
	if !ok {
		a, ok = b.answers[r.Method+" "+r.URL.EscapedPath()]
	}
	b.mu.Unlock()
	if !ok {
		b.t.Errorf("nobody expects the question %s", question)
		a = answer{http.StatusNotFound, admin.Problem{Detail: fmt.Sprintf("no answer to %s", question)}}
	}
	if text, is := a.body.([]byte); is {
		w.WriteHeader(a.status)
		_, _ = w.Write(text)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	if err := json.NewEncoder(w).Encode(a.body); err != nil {
		b.t.Error(err)
	}
}
