// Package bench is the command "fairlead bench": it loads a broker, any broker,
// and counts what is lost. Begin with [Command].
package bench

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"fairlead/cli"
	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// Command is "fairlead bench".
var Command = &cli.Command{
	Name: "bench", Group: "Tools", Summary: "load a broker and count what is lost",
	About: `One line a scenario:
  pairs    publishers and subscribers two by two, a topic for each pair
  fanin    many publishers, one subscriber
  fanout   one publisher, many subscribers
  ack      one message at a time: how long an acknowledgement takes
  offline  publish to sessions whose clients are away, and let them come back
  connect  connect and disconnect, many at a time
  idle     open connections and hold them

The load is a closed loop: with QoS 1 and 2 a publisher has --window messages
under way, with QoS 0 it stays --window messages ahead of the slowest
subscriber, so a figure is what the broker can do and not what it drops. --rate
makes it an open loop. Latency is from before the write to after the read, and so
is the time of an acknowledgement: to PUBACK with QoS 1, to PUBCOMP with QoS 2.

With -c the subscribers have sessions that outlive their connections, so a broker
that keeps its word has more to do; at the end the bench removes them. Publishers
have none.

--pid names the broker's process, if it runs on this machine (Linux): its CPU
time, its memory and what it has the disk write are shown as well, from the first
message published to the last one delivered.

Broker and bench share a machine's cores if they are on one. Exit code: 0 done, 1
if acknowledged messages were lost or the broker could not be reached, 2 wrong
command line.`,
	Commands: []*cli.Command{
		scenario("pairs", "publishers and subscribers two by two", settings{shape: shape{pubs: 50, subs: 50}, window: 100}),
		scenario("fanin", "many publishers, one subscriber", settings{shape: shape{pubs: 100, subs: 1}, window: 100}),
		scenario("fanout", "one publisher, many subscribers", settings{shape: shape{pubs: 1, subs: 500}, window: 100}),
		scenario("ack", "how long an acknowledgement takes", settings{shape: shape{pubs: 1, subs: 1}, window: 1, qos: 1}),
		scenario("offline", "publish to absent sessions, which then return",
			settings{shape: shape{pubs: 1, subs: 1}, window: 100, qos: 1, count: 100_000, keep: true}),
		scenario("connect", "connect and disconnect", settings{shape: shape{pubs: 50}, window: 1}),
		scenario("idle", "open connections and hold them", settings{shape: shape{pubs: 1000}, window: 1}),
	},
	Examples: []cli.Example{
		{What: "fifty pairs at QoS 1 for ten seconds", Line: "fairlead bench pairs --qos 1 --size 64 --duration 10s"},
		{What: "the same with sessions that the broker must not lose", Line: "fairlead bench pairs --qos 1 -c"},
		{What: "100,000 messages for a client that is away, and its return", Line: "fairlead bench offline -n 100000"},
		{What: "one publisher, 500 subscribers, on another machine, as JSON", Line: "fairlead bench fanout -h broker.example --json"},
		{What: "latency at 2,000 messages a second", Line: "fairlead bench pairs --qos 1 --rate 2000"},
		{What: "devices with passwords, each on topics of its own", Line: "fairlead bench pairs --logins devices.txt -t 'devices/{user}/bench'"},
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
	countMax   = 1 << 30 // messages are numbered in 32 bits
)

// expiryDefault is how long a session lives that the bench could not remove.
const expiryDefault = time.Hour

// settings are the flags' values.
type settings struct {
	cli.Connection
	name         string
	shape        shape
	qos          int
	size, window int
	count        int // messages of all publishers together; 0: no limit
	rate         int
	duration     time.Duration
	topic        string
	loginsFile   string
	logins       []login // of its file; none: all clients log in as -u and -P say
	keep         bool    // -c
	expiry       uint32  // seconds; math.MaxUint32: for ever
	expiryGiven  bool
	pid          int
	asJSON       bool
}

// scenario is the command for a scenario with what it begins with.
func scenario(name, summary string, defaults settings) *cli.Command {
	examples := []cli.Example{{What: "with a summary as JSON", Line: "fairlead bench " + name + " --duration 3s --json"}}
	return &cli.Command{
		Name: name, Summary: summary, Examples: examples,
		About: "See \"fairlead bench --help\" for what is measured, and how.",
		New: func() (*cli.Flags, cli.Run) {
			b := defaults
			b.name, b.size, b.duration, b.expiry = name, 64, 10*time.Second, uint32(expiryDefault/time.Second)
			return b.flags(), b.run
		},
	}
}

func (b *settings) flags() *cli.Flags {
	f := cli.NewFlags()
	f.Group("Load")
	if b.shape.subs == 0 {
		f.Int(&b.shape.pubs, "clients", "COUNT", 1, clientsMax, fmt.Sprintf("clients; default %d", b.shape.pubs))
		var unused int // one script runs all scenarios with the same flags
		f.Int(&unused, "q,qos", "QOS", 0, 2, "no messages are sent here: of no effect")
		f.Int(&unused, "s,size", "BYTES", sizeMin, sizeMax, "no messages are sent here: of no effect")
	} else {
		b.messageFlags(f)
	}
	f.Duration(&b.duration, "duration", "SECONDS", "how long, at most; default 10s")
	f.Bool(&b.keep, "c,disable-clean-session", b.keepHelp())
	f.Func("x,session-expiry-interval", "SECONDS", "how long the broker keeps them if the bench does not get to remove them;\n-1: for ever; default 3600 (5.0)", b.setExpiry)
	f.String(&b.loginsFile, "logins", "FILE", loginsHelp)
	f.Int(&b.pid, "pid", "PID", 1, math.MaxInt32, "the broker's process, if it is on this machine: show what it uses")
	f.Bool(&b.asJSON, "json", "print the result as a JSON object")
	b.BrokerFlags(f)
	return f
}

func (b *settings) messageFlags(f *cli.Flags) {
	f.Int(&b.shape.pubs, "pubs", "COUNT", 1, clientsMax, fmt.Sprintf("publishers; default %d", b.shape.pubs))
	f.Int(&b.shape.subs, "subs", "COUNT", 1, clientsMax, fmt.Sprintf("subscribers; default %d", b.shape.subs))
	f.Int(&b.qos, "q,qos", "QOS", 0, 2, fmt.Sprintf("of publishers and subscribers; default %d", b.qos))
	f.Int(&b.size, "s,size", "BYTES", sizeMin, sizeMax, fmt.Sprintf("payload; default %d", b.size))
	f.Int(&b.window, "window", "COUNT", 1, windowMax, fmt.Sprintf("messages ahead, see \"fairlead bench --help\"; default %d", b.window))
	f.Int(&b.count, "n,count", "COUNT", 1, countMax, "stop after so many messages of all publishers; default: "+b.countHelp())
	f.Int(&b.rate, "rate", "COUNT", 1, math.MaxInt32, "messages a second over all publishers; default: as many as go")
	b.topic = "bench"
	f.String(&b.topic, "t,topic", "TOPIC", "topics begin with this; default bench")
}

func (b *settings) countHelp() string {
	if b.count == 0 {
		return "no limit"
	}
	return strconv.Itoa(b.count)
}

func (b *settings) keepHelp() string {
	switch {
	case b.name == "offline":
		return "subscribers have sessions that outlive their connections: always so here"
	case b.shape.subs == 0:
		return "clients have sessions that outlive their connections"
	}
	return "subscribers have sessions that outlive their connections"
}

func (b *settings) setExpiry(s string) error {
	b.expiryGiven = true
	if s == "-1" || s == "∞" {
		b.expiry = math.MaxUint32
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return fmt.Errorf("%q: expected seconds from 0 to 4294967295, or -1 for ever", s)
	}
	b.expiry = uint32(n)
	return nil
}

// durable reports whether sessions outlive their connections.
func (b *settings) durable() bool {
	if b.expiryGiven {
		return b.expiry > 0
	}
	return b.keep
}

// connectProperties say how long a durable session lives; nil before 5.0.
func (b *settings) connectProperties() *packet.Properties {
	if b.Version() < mqtt.V5 {
		return nil
	}
	p := &packet.Properties{SessionExpiry: b.expiry}
	p.Mark(mqtt.SessionExpiryInterval)
	return p
}

func (b *settings) run(ctx context.Context, env *cli.Env, _ []string) error {
	o, err := b.Options(env)
	if err != nil {
		return err
	}
	if err := b.check(&o); err != nil {
		return err
	}
	if b.loginsFile != "" {
		if b.logins, err = readLogins(b.loginsFile); err != nil {
			return err
		}
	}
	l := newLoad(b, env, o)
	defer l.forget(ctx)
	switch b.name {
	case "connect":
		err = l.connects(ctx)
	case "idle":
		err = l.idle(ctx)
	case "offline":
		err = l.offline(ctx)
	default:
		err = l.messages(ctx)
	}
	if err != nil {
		return err
	}
	return b.print(env, l.result)
}

func (b *settings) check(o *client.Options) error {
	switch {
	case b.duration < 100*time.Millisecond:
		return cli.Usagef("--duration %v: expected at least 100ms", b.duration)
	case b.name == "pairs" && b.shape.pubs != b.shape.subs:
		return cli.Usagef("%d publishers and %d subscribers: pairs need as many of both", b.shape.pubs, b.shape.subs)
	case b.name == "fanin" && b.shape.subs != 1, b.name == "fanout" && b.shape.pubs != 1:
		return cli.Usagef("%s with %d publishers and %d subscribers: fanin has one subscriber, fanout one publisher", b.name, b.shape.pubs, b.shape.subs)
	case (b.name == "ack" || b.name == "offline") && b.qos == 0:
		return cli.Usagef("%s with QoS 0: expected 1 or 2; a QoS 0 message is neither acknowledged nor kept", b.name)
	case strings.ContainsAny(b.topic, "+#"):
		return cli.Usagef("--topic %q: expected a topic without wildcards", b.topic)
	case b.loginsFile != "" && (o.User != "" || o.Password != nil):
		return cli.Usagef("--logins %s says who the clients are: expected no -u and -P beside it", b.loginsFile)
	case b.loginsFile == "" && strings.Contains(b.topic, userVariable):
		return cli.Usagef("--topic %q: expected --logins, which says what %s stands for", b.topic, userVariable)
	case b.expiryGiven && b.Version() < mqtt.V5:
		return cli.Usagef("-x needs MQTT 5.0: leave -V out, or use -c alone")
	case b.keep && b.expiryGiven && b.expiry == 0:
		return cli.Usagef("-x 0: expected 1 or more; a session of 0 seconds ends with its connection")
	}
	return nil
}
