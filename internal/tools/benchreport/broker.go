package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The peers, at the versions that the report names.
const (
	mochiModule  = "github.com/mochi-mqtt/server/v2"
	mochiVersion = "v2.7.9"
	mosquittoBin = "/usr/sbin/mosquitto"
)

//go:embed mochi.go.txt
var mochiMain string

// A broker is one of those measured: how to start it, and which it is.
type broker struct {
	name    string
	version string
	command func(l layout) []string
	files   func(l layout) map[string]string // to be written into l.dir first
}

// A layout is where one run of a broker has its things.
type layout struct {
	dir           string
	port, tlsPort string
	cert, key     string
}

// peers finds or builds the brokers that -brokers selects. Their order is the
// order of measuring.
func peers(ctx context.Context, o options) ([]broker, error) {
	var found []broker
	for _, p := range []struct {
		name string
		make func(context.Context, options) (broker, error)
	}{{"mosquitto", mosquitto}, {"mochi", mochi}, {"fairlead", fairlead}} {
		if !o.brokers.MatchString(p.name) {
			continue
		}
		b, err := p.make(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		b.name = p.name
		found = append(found, b)
	}
	return found, nil
}

// mosquitto is Debian's, with its defaults.
func mosquitto(ctx context.Context, _ options) (broker, error) {
	if _, err := os.Stat(mosquittoBin); err != nil {
		return broker{}, err
	}
	// Its help, given with an exit code of its own, begins with the version.
	help, _ := exec.CommandContext(ctx, mosquittoBin, "-h").CombinedOutput()
	return broker{
		version: "Debian's " + firstLine(string(help)),
		command: func(l layout) []string { return []string{mosquittoBin, "-c", l.dir + "/mosquitto.conf"} },
		files: func(l layout) map[string]string {
			return map[string]string{"mosquitto.conf": fmt.Sprintf(
				"log_type none\nallow_anonymous true\nlistener %s 127.0.0.1\nlistener %s 127.0.0.1\ncertfile %s\nkeyfile %s\n",
				l.port, l.tlsPort, l.cert, l.key)}
		},
	}, nil
}

// mochi is an allow-all mochi-mqtt, with its defaults.
func mochi(ctx context.Context, o options) (broker, error) {
	binary, err := buildMochi(ctx, filepath.Join(o.work, "mochi"))
	if err != nil {
		return broker{}, err
	}
	return broker{
		version: "mochi-mqtt version " + strings.TrimPrefix(mochiVersion, "v"),
		command: func(l layout) []string {
			return []string{binary, "-plain", "127.0.0.1:" + l.port, "-secure", "127.0.0.1:" + l.tlsPort, "-cert", l.cert, "-key", l.key}
		},
	}, nil
}

// fairlead is ours, with its defaults.
func fairlead(ctx context.Context, o options) (broker, error) {
	binary, err := filepath.Abs(o.fairlead)
	if err != nil {
		return broker{}, err
	}
	version, err := output(ctx, "", binary, "version")
	if err != nil {
		return broker{}, fmt.Errorf("%w (build it by `make build`)", err)
	}
	return broker{
		version: firstLine(version),
		command: func(l layout) []string { return []string{binary, "serve", "--config", l.dir + "/fairlead.yaml"} },
		files: func(l layout) map[string]string {
			return map[string]string{"fairlead.yaml": fmt.Sprintf(
				"data: %s/data\nopen: true\nlisteners:\n  - mqtt://127.0.0.1:%s\n  - url: mqtts://127.0.0.1:%s\n    tls: {cert: %s, key: %s}\n",
				l.dir, l.port, l.tlsPort, l.cert, l.key)}
		},
	}, nil
}

// buildMochi compiles an allow-all broker in a module of its own, so that ours
// does not depend on it.
func buildMochi(ctx context.Context, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	files := map[string]string{
		"main.go": mochiMain,
		"go.mod":  "module mochi\n\ngo 1.26\n\nrequire " + mochiModule + " " + mochiVersion + "\n",
	}
	if err := writeFiles(dir, files); err != nil {
		return "", err
	}
	for _, args := range [][]string{{"mod", "tidy"}, {"build", "-buildvcs=false", "-o", "mochi", "."}} {
		if _, err := output(ctx, dir, "go", args...); err != nil {
			return "", fmt.Errorf("build mochi-mqtt: %w", err)
		}
	}
	return filepath.Abs(filepath.Join(dir, "mochi"))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func writeFiles(dir string, files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	startPatience = 20 * time.Second
	stopPatience  = 8 * time.Second
)

// start runs the broker in l.dir and returns once it takes connections, with a
// function that ends it. Its output goes to l.dir/log.
func (b broker) start(ctx context.Context, l layout) (pid int, stop func(), err error) {
	if b.files != nil {
		if err := writeFiles(l.dir, b.files(l)); err != nil {
			return 0, nil, err
		}
	}
	out, err := os.Create(filepath.Join(l.dir, "log"))
	if err != nil {
		return 0, nil, err
	}
	defer out.Close() // the process has its own by then
	// As many open files as may be: one per connection. exec keeps the process id.
	cmd := exec.Command("sh", append([]string{"-c", `ulimit -n 200000 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$@"`, "sh"}, b.command(l)...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, out, out
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is ended by a signal
		close(done)
	}()
	stop = func() { end(cmd.Process, done) }
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, port := range []string{l.port, l.tlsPort} {
		if err := await(ctx, port, done); err != nil {
			stop()
			text, _ := os.ReadFile(out.Name())
			return 0, nil, fmt.Errorf("%s: %w: %s", b.name, err, text)
		}
	}
	return cmd.Process.Pid, stop, nil
}

// await returns once the loopback port takes a connection.
func await(ctx context.Context, port string, done <-chan struct{}) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-again.C:
		case <-done:
			return fmt.Errorf("ended before port %s took connections", port)
		case <-ctx.Done():
			return fmt.Errorf("port %s takes no connections: %w", port, err)
		}
	}
}

// end asks the process to end, and ends it.
func end(p *os.Process, done <-chan struct{}) {
	_ = p.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-done:
	case <-time.After(stopPatience):
		_ = p.Kill()
		<-done
	}
}
