package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The peers, at the versions that the report names.
const (
	mochiModule  = "github.com/mochi-mqtt/server/v2"
	mochiVersion = "v2.7.9"
	natsModule   = "github.com/nats-io/nats-server/v2"
	natsVersion  = "v2.14.5"
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
	// probe measures the disk instead of a broker, in the directory dir; nil: there is
	// a broker.
	probe func(ctx context.Context, dir string, seconds float64) (result, error)
}

// A layout is where one run of a broker has its things.
type layout struct {
	dir           string
	port, tlsPort string
	cert, key     string
	fleet         *fleet // of the group security
}

// portOf is where the client connects.
func (l layout) portOf(o login) string {
	if o.tls != nil {
		return l.tlsPort
	}
	return l.port
}

// A peer is a broker that has yet to be found or built. An error says why it can't be
// had.
type peer struct {
	name string
	make func(context.Context, options) (broker, error)
}

var durablePeers = []peer{
	{"mosquitto", mosquittoUnlimited}, {"mochi-pebble", mochiOnDisk},
	{"nats", func(ctx context.Context, o options) (broker, error) { return nats(ctx, o, "") }},
	{"nats-sync", func(ctx context.Context, o options) (broker, error) { return nats(ctx, o, ", sync_interval: always") }},
	{"fairlead", fairlead},
	{"fdatasync", func(context.Context, options) (broker, error) { return diskAlone(false), nil }},
	{"fdatasync-ahead", func(context.Context, options) (broker, error) { return diskAlone(true), nil }},
}

// findPeers finds or builds the brokers that -brokers selects, in their order. missing
// are those that can't be had, each with the reason. Without Fairlead there is
// nothing to measure.
func findPeers(ctx context.Context, o options, peers []peer) (found []broker, missing []string, err error) {
	for _, p := range peers {
		if !o.brokers.MatchString(p.name) {
			continue
		}
		b, err := p.make(ctx, o)
		if errors.Is(err, errNoFairlead) || ctx.Err() != nil {
			return nil, nil, err
		}
		if err != nil {
			missing = append(missing, p.name+": "+firstLine(err.Error()))
			continue
		}
		b.name = p.name
		found = append(found, b)
	}
	if len(found) == 0 {
		return nil, missing, fmt.Errorf("no broker to measure: -brokers %q leaves none of those that can be had", o.brokers)
	}
	return found, missing, nil
}

// mosquitto is Debian's, with its defaults.
func mosquitto(ctx context.Context, _ options) (broker, error) {
	return mosquittoWith(ctx, "")
}

// mosquittoUnlimited is Debian's as well: without persistence, which is its default,
// and without the limit of 1,000 queued messages beyond which it drops.
func mosquittoUnlimited(ctx context.Context, _ options) (broker, error) {
	return mosquittoWith(ctx, "persistence false\nmax_queued_messages 0\n")
}

func mosquittoWith(ctx context.Context, more string) (broker, error) {
	if _, err := os.Stat(mosquittoBin); err != nil {
		return broker{}, err
	}
	// Its help, given with an exit code of its own, begins with the version.
	help, _ := exec.CommandContext(ctx, mosquittoBin, "-h").CombinedOutput()
	return broker{
		version: "Debian's " + firstLine(string(help)) + said(more),
		command: func(l layout) []string { return []string{mosquittoBin, "-c", l.dir + "/mosquitto.conf"} },
		files: func(l layout) map[string]string {
			return map[string]string{"mosquitto.conf": fmt.Sprintf(
				"log_type none\nallow_anonymous true\n%slistener %s 127.0.0.1\nlistener %s 127.0.0.1\ncertfile %s\nkeyfile %s\n",
				more, l.port, l.tlsPort, l.cert, l.key)}
		},
	}, nil
}

// said is a configuration in the report's list of versions; none: the defaults.
func said(configuration string) string {
	lines := strings.Split(strings.TrimSpace(configuration), "\n")
	if lines[0] == "" {
		return ""
	}
	return " (" + strings.Join(lines, ", ") + ")"
}

// mochi is an allow-all mochi-mqtt, with its defaults.
func mochi(ctx context.Context, o options) (broker, error) {
	return mochiWith(ctx, o, func(layout) []string { return nil }, "")
}

// mochiOnDisk has its Pebble hook, which syncs, and its limits lifted as far as they
// go: with the defaults it drops.
func mochiOnDisk(ctx context.Context, o options) (broker, error) {
	return mochiWith(ctx, o, func(l layout) []string { return []string{"-pebble", l.dir + "/pebble"} },
		"Pebble hook with syncs\n65,535 messages in flight\n1,000,000 writes pending")
}

func mochiWith(ctx context.Context, o options, more func(layout) []string, configuration string) (broker, error) {
	binary, err := buildMochi(ctx, filepath.Join(o.work, "mochi"))
	if err != nil {
		return broker{}, err
	}
	return broker{
		version: "mochi-mqtt version " + strings.TrimPrefix(mochiVersion, "v") + said(configuration),
		command: func(l layout) []string {
			args := []string{binary, "-plain", "127.0.0.1:" + l.port, "-secure", "127.0.0.1:" + l.tlsPort, "-cert", l.cert, "-key", l.key}
			return append(args, more(l)...)
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

// nats is a nats-server whose MQTT keeps messages in JetStream. It speaks 3.1.1 only.
func nats(ctx context.Context, o options, sync string) (broker, error) {
	binary, err := buildNATS(ctx, filepath.Join(o.work, "nats"))
	if err != nil {
		return broker{}, err
	}
	configuration := "MQTT on JetStream, syncs every 2 minutes"
	if sync != "" {
		configuration = "MQTT on JetStream" + sync
	}
	return broker{
		version: "nats-server version " + strings.TrimPrefix(natsVersion, "v") + said(configuration),
		command: func(l layout) []string { return []string{binary, "-c", l.dir + "/nats.conf"} },
		files: func(l layout) map[string]string {
			// The second port is that of NATS's own protocol.
			return map[string]string{"nats.conf": fmt.Sprintf(
				"server_name: bench\nlisten: \"127.0.0.1:%s\"\njetstream: {store_dir: \"%s/jetstream\"%s}\nmqtt: {listen: \"127.0.0.1:%s\"}\n",
				l.tlsPort, l.dir, sync, l.port)}
		},
	}, nil
}

// buildNATS installs the server's own command into dir.
func buildNATS(ctx context.Context, dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "nats-server")
	if version, err := output(ctx, "", binary, "--version"); err == nil && strings.Contains(version, natsVersion) {
		return binary, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", natsModule+"@"+natsVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server: %w: %s", err, out)
	}
	return binary, nil
}

var errNoFairlead = errors.New("no fairlead to measure (build it by `make build`)")

// fairlead is ours, with its defaults.
func fairlead(ctx context.Context, o options) (broker, error) { return fairleadWith(ctx, o, "") }

// fairleadInMemory keeps nothing.
func fairleadInMemory(ctx context.Context, o options) (broker, error) {
	return fairleadWith(ctx, o, "durability: memory\n")
}

// fairleadAtScale has room for what the group scale needs beside its own clients: the
// defaults end at a million sessions and retained messages. Its memory has its defaults.
func fairleadAtScale(ctx context.Context, o options) (broker, error) {
	const others = 10_000
	return fairleadWith(ctx, o, fmt.Sprintf("limits: {sessions: %d, retained_messages: %d, queue_messages: %d}\n", o.n+others, o.n+others, o.n+others))
}

func fairleadWith(ctx context.Context, o options, more string) (broker, error) {
	binary, err := filepath.Abs(o.fairlead)
	if err != nil {
		return broker{}, err
	}
	version, err := output(ctx, "", binary, "version")
	if err != nil {
		return broker{}, fmt.Errorf("%w: %w", errNoFairlead, err)
	}
	return broker{
		version: firstLine(version) + said(more),
		command: func(l layout) []string { return []string{binary, "serve", "--config", l.dir + "/fairlead.yaml"} },
		files: func(l layout) map[string]string {
			return map[string]string{"fairlead.yaml": fmt.Sprintf(
				"data: %s/data\nopen: true\n%slisteners:\n  - mqtt://127.0.0.1:%s\n  - url: mqtts://127.0.0.1:%s\n    tls: {cert: %s, key: %s}\n",
				l.dir, more, l.port, l.tlsPort, l.cert, l.key)}
		},
	}, nil
}

// diskAlone takes the turn of a broker: what one append and its fdatasync cost in the
// same minute, on the same disk.
func diskAlone(ahead bool) broker {
	version := "fdatasync: 4 KiB appended to a file that grows, and one fdatasync, by one thread"
	if ahead {
		version = "fdatasync-ahead: the same in a file that was filled with zeros before"
	}
	return broker{version: version, probe: func(ctx context.Context, dir string, seconds float64) (result, error) {
		return probeDisk(ctx, dir, seconds, ahead)
	}}
}
