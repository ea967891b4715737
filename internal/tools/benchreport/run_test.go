package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// pretendVariable makes this test binary a broker: it listens on the two
// addresses that its arguments name until it is told to end.
const pretendVariable = "BENCHREPORT_PRETEND"

func TestMain(m *testing.M) {
	if os.Getenv(pretendVariable) == "" {
		os.Exit(m.Run())
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	for _, port := range os.Args[1:] {
		if _, err := net.Listen("tcp", "127.0.0.1:"+port); err != nil {
			os.Exit(1)
		}
	}
	<-end
}

// pretend is a broker that only listens.
func pretend(t *testing.T, name string) broker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return broker{name: name, command: func(l layout) []string { return []string{self, l.port, l.tlsPort} }}
}

// generator writes a load generator that prints line, and its arguments to a
// file of their own.
func generator(t *testing.T, line string) (path, calls string) {
	t.Helper()
	dir := t.TempDir()
	path, calls = filepath.Join(dir, "loadgen"), filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho \"$@\" >>" + calls + "\necho '" + line + "'\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, calls
}

func TestBrokersTakeTurns(t *testing.T) {
	t.Setenv(pretendVariable, "1")
	loadgen, calls := generator(t, `{"rate":5}`)
	b := &bench{
		options: options{repeat: 2, seconds: 1.5, only: regexp.MustCompile("^connect"), lock: filepath.Join(t.TempDir(), "lock")},
		loadgen: loadgen, brokers: []broker{pretend(t, "a"), pretend(t, "b")}, log: io.Discard,
	}
	var out bytes.Buffer
	if err := b.measure(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	results, err := readResults(&out)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, r := range results {
		order = append(order, r.text("run")+" "+r.text("label")+r.text("note"))
	}
	want := "connect a, connect b, connect-tls a, connect-tls b, connect a, connect b, connect-tls a, connect-tls b"
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	said, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if first := firstLine(string(said)); !regexp.MustCompile(`^connect -addr 127\.0\.0\.1:\d+ -pid \d+ -label a -dur 1\.5$`).MatchString(first) {
		t.Errorf("the generator was called with %q", first)
	}
}

func TestWhatBreaksIsNoted(t *testing.T) {
	t.Setenv(pretendVariable, "1")
	loadgen, _ := generator(t, "no JSON")
	b := &bench{options: options{only: regexp.MustCompile("")}, loadgen: loadgen}
	if note := b.one(context.Background(), scenarios[0], pretend(t, "a")).text("note"); !strings.Contains(note, "no JSON") {
		t.Errorf("note %q, want what the generator said", note)
	}
	broken := broker{name: "broken", command: func(layout) []string { return []string{"sh", "-c", "echo out of luck; exit 3"} }}
	if note := b.one(context.Background(), scenarios[0], broken).text("note"); !strings.Contains(note, "out of luck") {
		t.Errorf("note %q, want what the broker said", note)
	}
}

func TestWithoutTheGeneratorNothingIsMeasured(t *testing.T) {
	out := filepath.Join(t.TempDir(), "performance.md")
	if err := run(context.Background(), []string{"-bench-dir", t.TempDir(), "-out", out}); err != nil {
		t.Errorf("run without a generator: %v", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a report was written: %v", err)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{"-repeat", "0"}, {"-only", "("}, {"-brokers", "("}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) gave no error", args)
		}
	}
}
