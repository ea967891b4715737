package main

import (
	"context"
	"io"
	"slices"
	"strings"
)

// A group is a part of the page: scenarios, and the brokers that go through them.
type group struct {
	name   string
	about  string // half a sentence for the page that lacks it
	target string // of make
	// Each scenario is measured against each peer that it is for.
	scenarios []scenario
	peers     []peer
	rounds    func(options) int
	swing     bool // every other round goes through the brokers backwards
	write     func(p *report, w io.Writer)
}

// A metric names the figure that a scenario is about, as the load generator
// writes it.
type metric struct {
	key  string // in the generator's JSON
	unit string
	name string
}

var (
	cpuPerMessage = metric{"broker_cpu_us_per_msg", "µs", "broker CPU per message"}
	cpuPerDrained = metric{"broker_cpu_us_per_drained", "µs", "broker CPU per retained message sent"}
	cpuPerConnect = metric{"broker_cpu_us_per_msg", "µs", "broker CPU per connect"}
	latencyP99    = metric{"p99_us", "µs", "99th percentile from write to read"}
	bytesPerConn  = metric{"bytes_per_conn", "bytes", "resident memory per connection"}

	benchCPU   = metric{"broker.cpu_us_per_message", "µs", "broker CPU per message"}
	ackMedian  = metric{"ack_us.p50", "µs", "from PUBLISH to PUBACK"}
	offlineCPU = metric{"broker.cpu_us_per_publish", "µs", "broker CPU per message taken"}
	elapsed    = metric{"seconds", "s", "time in all"}
)

// A scenario is one way to load a broker.
type scenario struct {
	name    string
	args    string  // for the load generator
	seconds float64 // for `fairlead bench`: how long to publish; -dur overrides it
	metric  metric
	// measure does without a load generator; nil: args are for one.
	measure func(ctx context.Context, b *bench, broker broker) (result, error)
	// Of the group core: must and aim are at most this many times Mosquitto's
	// figure, or, where absolute is set, at most this much.
	must, aim float64
	absolute  bool
	// Of the group security: the brokers that it is for, and how many rounds it has if
	// those are fewer than the group's.
	brokers []string
	rounds  func(options) int
}

// groups are those of the page, in its order. It is a function, since the table
// and those who use it need each other.
func groups() []group {
	return []group{
		{
			name: "core", about: "the brokers side by side, nothing kept", target: "bench",
			scenarios: coreScenarios, peers: []peer{{"mosquitto", mosquitto}, {"mochi", mochi}, {"fairlead", fairlead}},
			rounds: func(o options) int { return o.repeat }, write: (*report).core,
		},
		{
			name: "durable", about: "the brokers side by side with sessions that must not be lost", target: "bench-durable",
			scenarios: durableScenarios, peers: durablePeers,
			rounds: func(o options) int { return o.repeat }, write: (*report).durable,
		},
		{
			name: "memory", about: "what durability costs where nothing must be kept", target: "bench-durable",
			scenarios: memoryScenarios, peers: []peer{{"fsync", fairlead}, {"memory", fairleadInMemory}},
			rounds: func(o options) int { return o.pairs }, swing: true, write: (*report).memory,
		},
		{
			name: "scale", about: "a million queued messages, absent clients and retained messages", target: "bench-scale",
			scenarios: scaleScenarios, peers: []peer{{"fairlead", fairleadAtScale}},
			rounds: func(options) int { return 1 }, write: (*report).scale,
		},
		{
			name: "security", about: "what certificates, policies and revocation cost", target: "bench-security",
			scenarios: securityScenarios(), peers: []peer{{"mosquitto", mosquittoMutualTLS}, {"fairlead", fairleadWithIdentity}, {"open", fairlead}},
			rounds: func(o options) int { return max(o.repeat, o.pairs) }, swing: true, write: (*report).security,
		},
	}
}

func groupNames() []string {
	var names []string
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return names
}

// suits reports whether the scenario is for the broker: the disk alone has no part
// but in what is compared with it.
func (s scenario) suits(b broker) bool {
	if s.brokers != nil {
		return slices.Contains(s.brokers, b.name)
	}
	return b.probe == nil || s.name == ackScenario
}

var coreScenarios = []scenario{
	{name: "qos0-1to1", args: "qos0-1to1", metric: cpuPerMessage, must: 0.15, aim: 0.10},
	{name: "fanin-qos0", args: "fanin -qos 0", metric: cpuPerMessage, must: 0.27, aim: 0.17},
	{name: "fanout", args: "fanout", metric: cpuPerMessage, must: 0.22, aim: 0.13},
	{name: "pairs-qos0", args: "pairs -qos 0", metric: cpuPerMessage, must: 0.22, aim: 0.13},
	{name: "pairs-qos1", args: "pairs -qos 1", metric: cpuPerMessage, must: 0.20, aim: 0.08},
	{name: "pairs-qos2", args: "pairs -qos 2 -window 20", metric: cpuPerMessage, must: 0.15, aim: 0.09},
	{name: "fanin-qos1", args: "fanin -qos 1", metric: cpuPerMessage, must: 6, aim: 1.5, absolute: true},
	{name: "shared", args: "shared", metric: cpuPerMessage, must: 0.25, aim: 0.08},
	{name: "wildcards", args: "wildcards", metric: cpuPerMessage, must: 0.35, aim: 0.18},
	{name: "retained", args: "retained", metric: cpuPerDrained, must: 1.0, aim: 0.35},
	{name: "connect", args: "connect", metric: cpuPerConnect, must: 1.3, aim: 1.0},
	{name: "connect-tls", args: "connect -tls", metric: cpuPerConnect, must: 1.2, aim: 1.0},
	{name: "offline", args: "offline", metric: cpuPerMessage, must: 5, aim: 5, absolute: true},
	{name: "latency", args: "latency", metric: latencyP99, must: 2, aim: 1.2},
	{name: "idle", args: "idle", metric: bytesPerConn, must: 6500, aim: 4500, absolute: true},
}

// ackScenario is the one that a disk without a broker takes part in.
const ackScenario = "ack"

// The window of QoS 2 is 20: Mosquitto ends connections with more under way.
var durableScenarios = []scenario{
	{name: "pairs-qos1", args: "pairs -c -q 1 --window 100", seconds: 10, metric: benchCPU},
	{name: "pairs-qos1-1k", args: "pairs -c -q 1 --window 100 --size 1024", seconds: 10, metric: benchCPU},
	{name: "pairs-qos2", args: "pairs -c -q 2 --window 20", seconds: 10, metric: benchCPU},
	{name: ackScenario, args: "ack -c", seconds: 5, metric: ackMedian},
	{name: "offline", args: "offline --count 100000 --window 1000", seconds: 10, metric: offlineCPU},
}

var memoryScenarios = []scenario{
	{name: "pairs-qos0", args: "pairs -q 0", seconds: 2, metric: benchCPU},
	{name: "pairs-qos1", args: "pairs -q 1", seconds: 2, metric: benchCPU},
}

// flags are the generator's arguments one by one.
func (s scenario) flags() []string { return strings.Fields(s.args) }
