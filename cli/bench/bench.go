// Package bench is the command "fairlead bench": it loads a broker, any broker,
// and counts what is lost. Begin with [Command].
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"fairlead/cli"
	"fairlead/mqtt"
)

// Command is "fairlead bench".
var Command = &cli.Command{
	Name: "bench", Group: "Tools", Summary: "load a broker and count what is lost",
	About: `One line a scenario:
  pairs    publishers and subscribers two by two, a topic for each pair
  fanin    many publishers, one subscriber
  fanout   one publisher, many subscribers
  connect  connect and disconnect, many at a time
  idle     open connections and hold them

The load is a closed loop: with QoS 1 and 2 a publisher has --window messages
under way, with QoS 0 it stays --window messages ahead of the slowest
subscriber, so a figure is what the broker can do and not what it drops. --rate
makes it an open loop. Latency is from before the write to after the read.

Broker and bench share a machine's cores if they are on one. Exit code: 0 done, 1
if acknowledged messages were lost or the broker could not be reached, 2 wrong
command line.`,
	Commands: []*cli.Command{
		scenario("pairs", "publishers and subscribers two by two", shape{pubs: 50, subs: 50}),
		scenario("fanin", "many publishers, one subscriber", shape{pubs: 100, subs: 1}),
		scenario("fanout", "one publisher, many subscribers", shape{pubs: 1, subs: 500}),
		scenario("connect", "connect and disconnect", shape{pubs: 50}),
		scenario("idle", "open connections and hold them", shape{pubs: 1000}),
	},
	Examples: []cli.Example{
		{What: "fifty pairs at QoS 1 for ten seconds", Line: "fairlead bench pairs --qos 1 --size 64 --duration 10s"},
		{What: "one publisher, 500 subscribers, on another machine, as JSON", Line: "fairlead bench fanout -h broker.example --json"},
		{What: "latency at 2,000 messages a second", Line: "fairlead bench pairs --qos 1 --rate 2000"},
	},
}

// shape is how many clients a scenario has.
type shape struct{ pubs, subs int }

// Limits of a command line: more is a mistake rather than a wish.
const (
	clientsMax = 1_000_000
	sizeMin    = 20 // what a payload carries: who, when, and which
	sizeMax    = 1 << 20
	windowMax  = 65535
)

// settings are the flags' values.
type settings struct {
	cli.Connection
	name         string
	shape        shape
	qos          int
	size, window int
	rate         int
	duration     time.Duration
	topic        string
	asJSON       bool
}

func scenario(name, summary string, s shape) *cli.Command {
	examples := []cli.Example{{What: "with a summary as JSON", Line: "fairlead bench " + name + " --duration 3s --json"}}
	return &cli.Command{
		Name: name, Summary: summary, Examples: examples,
		About: "See \"fairlead bench --help\" for what is measured, and how.",
		New: func() (*cli.Flags, cli.Run) {
			b := &settings{name: name, shape: s}
			return b.flags(), b.run
		},
	}
}

func (b *settings) flags() *cli.Flags {
	f := cli.NewFlags()
	f.Group("Load")
	if b.shape.subs == 0 {
		f.Int(&b.shape.pubs, "clients", "COUNT", 1, clientsMax, fmt.Sprintf("clients; default %d", b.shape.pubs))
		b.window, b.size = 1, sizeMin
		var unused int // one script runs all scenarios with the same flags
		f.Int(&unused, "q,qos", "QOS", 0, 2, "no messages are sent here: of no effect")
		f.Int(&unused, "s,size", "BYTES", sizeMin, sizeMax, "no messages are sent here: of no effect")
	} else {
		f.Int(&b.shape.pubs, "pubs", "COUNT", 1, clientsMax, fmt.Sprintf("publishers; default %d", b.shape.pubs))
		f.Int(&b.shape.subs, "subs", "COUNT", 1, clientsMax, fmt.Sprintf("subscribers; default %d", b.shape.subs))
		b.window, b.size = 100, 64
		f.Int(&b.qos, "q,qos", "QOS", 0, 2, "of publishers and subscribers; default 0")
		f.Int(&b.size, "s,size", "BYTES", sizeMin, sizeMax, "payload; default 64")
		f.Int(&b.window, "window", "COUNT", 1, windowMax, "messages ahead, see \"fairlead bench --help\"; default 100")
		f.Int(&b.rate, "rate", "COUNT", 1, math.MaxInt32, "messages a second over all publishers; default: as many as go")
		b.topic = "bench"
		f.String(&b.topic, "t,topic", "TOPIC", "topics begin with this; default bench")
	}
	b.duration = 10 * time.Second
	f.Duration(&b.duration, "duration", "SECONDS", "how long; default 10s")
	f.Bool(&b.asJSON, "json", "print the result as a JSON object")
	b.BrokerFlags(f)
	return f
}

func (b *settings) run(ctx context.Context, env *cli.Env, _ []string) error {
	o, err := b.Options(env)
	if err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	r := &result{Scenario: b.name, Version: o.Version.String(), QoS: b.qos, Size: b.size, Publishers: b.shape.pubs, Subscribers: b.shape.subs}
	l := &load{settings: b, options: o, result: r, bar: newBar(env, b.name, b.duration)}
	defer l.bar.clear()
	switch b.name {
	case "connect":
		err = l.connects(ctx)
	case "idle":
		err = l.idle(ctx)
	default:
		err = l.messages(ctx)
	}
	l.bar.clear()
	if err != nil {
		return err
	}
	return b.print(env, r)
}

func (b *settings) check() error {
	switch {
	case b.duration < 100*time.Millisecond:
		return cli.Usagef("--duration %v: expected at least 100ms", b.duration)
	case b.name == "pairs" && b.shape.pubs != b.shape.subs:
		return cli.Usagef("%d publishers and %d subscribers: pairs need as many of both", b.shape.pubs, b.shape.subs)
	case b.name == "fanin" && b.shape.subs != 1, b.name == "fanout" && b.shape.pubs != 1:
		return cli.Usagef("%s with %d publishers and %d subscribers: fanin has one subscriber, fanout one publisher", b.name, b.shape.pubs, b.shape.subs)
	case strings.ContainsAny(b.topic, "+#"):
		return cli.Usagef("--topic %q: expected a topic without wildcards", b.topic)
	}
	return nil
}

// result is what is printed. Times are in microseconds.
type result struct {
	Scenario    string `json:"scenario"`
	Version     string `json:"mqtt_version"`
	QoS         int    `json:"qos"`
	Size        int    `json:"size"`
	Publishers  int    `json:"publishers"`
	Subscribers int    `json:"subscribers"`

	Seconds    float64 `json:"seconds"`
	Connected  int     `json:"connected"`
	Sent       uint64  `json:"sent"`     // messages that publishers wrote
	Accepted   uint64  `json:"accepted"` // of these, acknowledged as successful; QoS 0: all
	Refused    uint64  `json:"refused"`  // acknowledged with a failure
	Received   uint64  `json:"received"` // deliveries, without duplicates
	Lost       uint64  `json:"lost"`     // deliveries that are missing
	Duplicates uint64  `json:"duplicates"`
	Disordered uint64  `json:"disordered"` // arrived behind a later one of its publisher
	Broken     uint64  `json:"broken"`     // connections that ended before their time
	Rate       float64 `json:"rate"`       // deliveries, or connections, a second

	Latency *quantiles `json:"latency_us,omitempty"`
}

type quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func (b *settings) print(env *cli.Env, r *result) (err error) {
	if b.asJSON {
		err = json.NewEncoder(env.Stdout).Encode(r)
	} else {
		_, err = fmt.Fprint(env.Stdout, r.text())
	}
	if err == nil && b.qos > 0 && r.Lost > 0 {
		return &cli.ExitError{Code: cli.ExitFailed, Err: fmt.Errorf("%d messages were acknowledged and not delivered", r.Lost)}
	}
	return err
}

// text is the result for people.
func (r *result) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	switch r.Scenario {
	case "connect":
		line("%-10s %.0f connections a second, %d in %.1f s, %d failed", r.Scenario, r.Rate, r.Connected, r.Seconds, r.Broken)
	case "idle":
		line("%-10s %d connections for %.1f s, %d lost", r.Scenario, r.Connected, r.Seconds, r.Broken)
	default:
		line("%-10s %.0f messages a second delivered (%s, QoS %d, %d bytes, %d to %d clients)",
			r.Scenario, r.Rate, "MQTT "+r.Version, r.QoS, r.Size, r.Publishers, r.Subscribers)
		line("%-10s %d sent, %d accepted, %d refused, %d received", "messages", r.Sent, r.Accepted, r.Refused, r.Received)
		line("%-10s %d lost, %d duplicates, %d out of order, %d connections broken", "problems", r.Lost, r.Duplicates, r.Disordered, r.Broken)
	}
	if q := r.Latency; q != nil {
		line("%-10s p50 %s, p90 %s, p99 %s, p99.9 %s, max %s", "latency", micros(q.P50), micros(q.P90), micros(q.P99), micros(q.P999), micros(q.Max))
	}
	return b.String()
}

func micros(us float64) string {
	return time.Duration(us * float64(time.Microsecond)).Round(time.Microsecond).String()
}

// version is the protocol version of all clients.
func (l *load) version() mqtt.Version { return l.options.Version }
