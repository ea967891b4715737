package main

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
)

// A scenario is one way to load a broker, with what Fairlead must reach in it
// and aims for.
type scenario struct {
	name   string
	args   string // for the load generator
	metric metric
	// must and aim are at most this many times Mosquitto's figure, or, where
	// absolute is set, at most this much.
	must, aim float64
	absolute  bool
}

// scenarios are measured in this order.
var scenarios = []scenario{
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
