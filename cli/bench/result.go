package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"fairlead/cli"
)

// result is what is printed. Times are in microseconds where the name says so.
type result struct {
	Scenario    string `json:"scenario"`
	Version     string `json:"mqtt_version"`
	QoS         int    `json:"qos"`
	Size        int    `json:"size"`
	Publishers  int    `json:"publishers"`
	Subscribers int    `json:"subscribers"`
	Window      int    `json:"window"`
	Durable     bool   `json:"durable"` // subscribers' sessions outlive their connections

	Seconds     float64 `json:"seconds"`
	Connected   int     `json:"connected"`
	Sent        uint64  `json:"sent"`     // messages that publishers wrote
	Accepted    uint64  `json:"accepted"` // of these, acknowledged as successful; QoS 0: all
	Refused     uint64  `json:"refused"`  // acknowledged with a failure
	Received    uint64  `json:"received"` // deliveries, without duplicates
	Lost        uint64  `json:"lost"`     // deliveries that are missing
	Duplicates  uint64  `json:"duplicates"`
	Disordered  uint64  `json:"disordered"`             // arrived behind a later one of its publisher
	Broken      uint64  `json:"broken"`                 // connections that ended before their time
	Rate        float64 `json:"rate"`                   // deliveries, or connections, a second
	PublishRate float64 `json:"publish_rate,omitempty"` // acknowledged messages a second
	DrainRate   float64 `json:"drain_rate,omitempty"`   // offline: deliveries a second after the return

	Ack     *quantiles `json:"ack_us,omitempty"`
	Latency *quantiles `json:"latency_us,omitempty"`
	Broker  *brokerUse `json:"broker,omitempty"` // with --pid
}

type quantiles struct {
	P50  float64 `json:"p50"`
	Mean float64 `json:"mean"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// brokerUse is what the broker's process has used meanwhile.
type brokerUse struct {
	CPU        float64 `json:"cpu_seconds"`                  // user and system
	CPUMessage float64 `json:"cpu_us_per_message"`           // a delivery; without messages: a connection
	CPUPublish float64 `json:"cpu_us_per_publish,omitempty"` // offline: per message taken
	CPUDrain   float64 `json:"cpu_us_per_drained,omitempty"` // offline: per message delivered
	RSS        int64   `json:"rss_bytes"`                    // at the end
	RSSPeak    int64   `json:"rss_peak_bytes"`               // since the process began
	// Disk is what went to block devices, and DiskByte how much that is for each
	// payload byte that was accepted; nil if the kernel does not let us see.
	Disk     *int64   `json:"disk_written_bytes,omitempty"`
	DiskByte *float64 `json:"disk_bytes_per_payload_byte,omitempty"`
	// BenchCPU is the bench's own user and system time.
	BenchCPU float64 `json:"bench_cpu_seconds"`
}

func (b *settings) print(env *cli.Env, r *result) (err error) {
	if b.asJSON {
		err = json.NewEncoder(env.Stdout).Encode(r)
	} else {
		_, err = fmt.Fprint(env.Stdout, r.text())
	}
	if err == nil && r.QoS > 0 && r.Lost > 0 {
		return &cli.ExitError{Code: cli.ExitFailed, Err: fmt.Errorf("%d messages were acknowledged and not delivered", r.Lost)}
	}
	return err
}

// text is the result for people.
func (r *result) text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s "+format+"\n", append([]any{name}, args...)...)
	}
	switch r.Scenario {
	case "connect":
		line(r.Scenario, "%.0f connections a second, %d in %.1f s, %d failed", r.Rate, r.Connected, r.Seconds, r.Broken)
	case "idle":
		line(r.Scenario, "%d connections for %.1f s, %d lost", r.Connected, r.Seconds, r.Broken)
	case "offline":
		line(r.Scenario, "%.0f messages a second taken, %.0f a second delivered after the return (%s)", r.PublishRate, r.DrainRate, r.load())
		r.messages(line)
	default:
		line(r.Scenario, "%.0f messages a second delivered (%s)", r.Rate, r.load())
		r.messages(line)
	}
	if q := r.Ack; q != nil {
		line("acks", "%s", q)
	}
	if q := r.Latency; q != nil {
		line("latency", "%s", q)
	}
	r.Broker.text(line)
	return b.String()
}

// load says what the messages were like.
func (r *result) load() string {
	sessions := ""
	if r.Durable {
		sessions = ", sessions kept"
	}
	return fmt.Sprintf("MQTT %s, QoS %d, %d bytes, %d to %d clients%s", r.Version, r.QoS, r.Size, r.Publishers, r.Subscribers, sessions)
}

func (r *result) messages(line func(name, format string, args ...any)) {
	line("messages", "%d sent, %d accepted, %d refused, %d received", r.Sent, r.Accepted, r.Refused, r.Received)
	line("problems", "%d lost, %d duplicates, %d out of order, %d connections broken", r.Lost, r.Duplicates, r.Disordered, r.Broken)
}

func (q *quantiles) String() string {
	return fmt.Sprintf("p50 %s, mean %s, p90 %s, p99 %s, p99.9 %s, max %s",
		micros(q.P50), micros(q.Mean), micros(q.P90), micros(q.P99), micros(q.P999), micros(q.Max))
}

func micros(us float64) string {
	return time.Duration(us * float64(time.Microsecond)).Round(time.Microsecond).String()
}

// text adds the broker's line; u may be nil.
func (u *brokerUse) text(line func(name, format string, args ...any)) {
	if u == nil {
		return
	}
	disk := ""
	if u.DiskByte != nil {
		disk = fmt.Sprintf(", %.2f bytes on disk for each byte of payload", *u.DiskByte)
	}
	line("broker", "CPU %.2f s, %.2f µs a message; memory %.1f MiB, at most %.1f%s",
		u.CPU, u.CPUMessage, mib(u.RSS), mib(u.RSSPeak), disk)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
