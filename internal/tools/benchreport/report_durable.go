package main

import (
	"fmt"
	"io"
	"slices"
)

// A goal is a figure that Fairlead must reach where nothing may be lost.
type goal struct {
	what    string
	figure  func(p *report) (v float64, ok bool)
	atLeast bool // else: at most
	must    float64
	unit    string
}

// goals are in the order of the page.
var goals = []goal{
	{"50 pairs, QoS 1, sessions kept, on disk before PUBACK: rate, against Mosquitto that keeps nothing",
		against("pairs-qos1", "rate", "mosquitto"), true, 1.5, "×"},
	{"the same: broker CPU per message", ours("pairs-qos1", benchCPU.key), false, 5, "µs"},
	{"lost, in all scenarios and rounds", (*report).lostByUs, false, 0, ""},
	{"one publisher, one message at a time: median time to PUBACK, against the median fdatasync of 4 KiB on a file that grows",
		against(ackScenario, ackMedian.key, "fdatasync"), false, 1.5, "×"},
	{"the same, against an fdatasync on a file that was filled ahead",
		against(ackScenario, ackMedian.key, "fdatasync-ahead"), false, 1.5, "×"},
	{"queue of an absent client: messages taken a second", ours("offline", "publish_rate"), true, 100_000, ""},
	{"the same: delivered a second when it returns", ours("offline", "drain_rate"), true, 100_000, ""},
}

func ours(run, key string) func(*report) (float64, bool) {
	return func(p *report) (float64, bool) { return p.median(run, "fairlead", key) }
}

func against(run, key, label string) func(*report) (float64, bool) {
	return func(p *report) (float64, bool) {
		mine, ok := p.median(run, "fairlead", key)
		theirs, both := p.median(run, label, key)
		return mine / theirs, ok && both && theirs > 0
	}
}

// lostByUs is a sum, not a median: one message is too many.
func (p *report) lostByUs() (n float64, ok bool) {
	for _, s := range durableScenarios {
		for _, lost := range p.of(s.name, "fairlead", "lost") {
			n, ok = n+lost, true
		}
	}
	return n, ok
}

// line is the goal's row of the table.
func (g goal) line(p *report) string {
	v, ok := g.figure(p)
	measured, met := "–", "–"
	if ok {
		measured, met = figure(v)+unit(g.unit), "no"
		if v == g.must || (v > g.must) == g.atLeast {
			met = "yes"
		}
	}
	sign := "≤"
	if g.atLeast {
		sign = "≥"
	}
	return fmt.Sprintf("| %s | %s %s%s | %s | %s |\n", g.what, sign, figure(g.must), unit(g.unit), measured, met)
}

// unit is what follows a number.
func unit(u string) string {
	if u == "" || u == "×" {
		return u
	}
	return " " + u
}

// durable is the part of the group durable.
func (p *report) durable(w io.Writer) {
	fmt.Fprintf(w, "## Nothing acknowledged is lost\n\nSubscribers have sessions that outlive their connections. Fairlead has its defaults: it acknowledges what is on disk. Each figure is the median of %d rounds; in a round every broker takes its turn in every scenario, each time freshly started in an empty directory. The generator, `fairlead bench`, is the same for all, speaks MQTT 3.1.1 to them and shares the machine's cores with them.\n\n", p.rounds())
	p.circumstances(w)
	fmt.Fprint(w, "### Against the goals\n\n| what | must | measured | met |\n|---|---|---|---|\n")
	for _, g := range goals {
		fmt.Fprint(w, g.line(p))
	}
	p.durableRates(w)
	p.durableAcks(w)
	p.durableOffline(w)
	fmt.Fprint(w, "\n### Scenarios\n\nEach with `--json -V 311 --pid PID` and its duration.\n\n| scenario | arguments | seconds |\n|---|---|---|\n")
	for _, s := range durableScenarios {
		seconds := s.seconds
		if p.Seconds > 0 {
			seconds = p.Seconds
		}
		fmt.Fprintf(w, "| `%s` | `fairlead bench %s` | %g |\n", s.name, s.args, seconds)
	}
}

// durableRates is about clients that are there.
func (p *report) durableRates(w io.Writer) {
	fmt.Fprint(w, "\n### While all are connected\n\nFifty publishers and fifty subscribers two by two; payloads of 64 bytes, 1 KiB in `pairs-qos1-1k`. Rate: messages delivered a second. CPU: the broker's user and system time per message. "+
		"Disk: what the broker had the kernel write to block devices, for each byte of payload. Lost, doubled, out of order: in the worst round.\n\n"+
		"| scenario | broker | rounds | rate/s (min–max) | CPU µs/msg (min–max) | disk bytes/byte | lost | doubled | out of order | notes |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range durableScenarios {
		if s.name == ackScenario || s.name == "offline" {
			continue
		}
		for _, label := range p.labels(s.name) {
			rates := p.of(s.name, label, "rate")
			fmt.Fprintf(w, "| `%s` | %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", s.name, label, len(rates), spread(rates),
				spread(p.of(s.name, label, benchCPU.key)), p.cell(s.name, label, metric{key: "broker.disk_bytes_per_payload_byte"}),
				p.lost(s.name, label), p.most(s.name, label, "duplicates"), p.most(s.name, label, "disordered"), p.notes(s.name, label))
		}
	}
}

// durableAcks sets acknowledgements beside what the disk needs.
func (p *report) durableAcks(w io.Writer) {
	fmt.Fprint(w, "\n### The time of an acknowledgement\n\nOne publisher with one QoS 1 message of 64 bytes at a time, to one subscriber whose session is kept: from before the write of PUBLISH to after the read of PUBACK. "+
		"The disk alone takes its turn like a broker.\n\n| | p50 µs (min–max) | mean µs | p99 µs | notes |\n|---|---|---|---|---|\n")
	for _, label := range p.labels(ackScenario) {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", label, spread(p.of(ackScenario, label, ackMedian.key)),
			p.cell(ackScenario, label, metric{key: "ack_us.mean"}), p.cell(ackScenario, label, metric{key: "ack_us.p99"}), p.notes(ackScenario, label))
	}
}

// durableOffline is about a client that is away.
func (p *report) durableOffline(w io.Writer) {
	fmt.Fprint(w, "\n### A client that is away, and its return\n\nOne publisher sends up to 100,000 QoS 1 messages of 64 bytes, with up to 1,000 under way, to a session whose client is away; then the client comes back. A slow broker is given fewer: what it takes in the time that publishing lasts.\n\n"+
		"| broker | rounds | messages | taken/s (min–max) | delivered/s (min–max) | CPU µs/taken | CPU µs/delivered | lost | doubled | out of order | notes |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	const run = "offline"
	for _, label := range p.labels(run) {
		taken := p.of(run, label, "publish_rate")
		fmt.Fprintf(w, "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", label, len(taken), p.cell(run, label, metric{key: "accepted"}),
			spread(taken), spread(p.of(run, label, "drain_rate")),
			p.cell(run, label, metric{key: offlineCPU.key}), p.cell(run, label, metric{key: "broker.cpu_us_per_drained"}),
			p.lost(run, label), p.most(run, label, "duplicates"), p.most(run, label, "disordered"), p.notes(run, label))
	}
}

// memory is the part of the group memory.
func (p *report) memory(w io.Writer) {
	fmt.Fprintf(w, "## What durability costs where nothing must be kept\n\nSessions that end with their connections need no disk. `--durability fsync`, the default, is compared with `--durability memory` in %d pairs of short runs, each freshly started, in the order A B B A. "+
		"The figure is the ratio of broker CPU per message within a pair; the interval holds the median ratio with 95 %% probability or more, whatever the distribution.\n\n", p.rounds())
	p.circumstances(w)
	fmt.Fprint(w, "| scenario | fsync µs/msg | memory µs/msg | pairs | ratio | 95 % interval | must | met |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range memoryScenarios {
		ratios := p.pairRatios(s.name, s.metric.key, "fsync", "memory")
		m, ok := median(ratios)
		if !ok {
			continue
		}
		low, high := medianInterval(ratios)
		fmt.Fprintf(w, "| `fairlead bench %s` | %s | %s | %d | %.3f | %.3f–%.3f | ≤ %.2f | %s |\n", s.args,
			p.cell(s.name, "fsync", metric{key: s.metric.key}), p.cell(s.name, "memory", metric{key: s.metric.key}), len(ratios), m, low, high, memoryMust, verdict(low, high, memoryMust))
	}
}

// memoryMust is how much more CPU a message may need with durability than without.
const memoryMust = 1.03

// verdict says whether the interval lies on one side of the limit.
func verdict(low, high, most float64) string {
	switch {
	case high <= most:
		return "yes"
	case low > most:
		return "no"
	}
	return "undecided: more pairs are needed"
}

// pairRatios are the ratios of one broker to another within each round, sorted.
func (p *report) pairRatios(run, key, one, other string) []float64 {
	var found []float64
	for round := range p.rounds() {
		figures := make(map[string]float64)
		for _, r := range p.results {
			if r.text("run") == run && int(r.number("round")) == round {
				figures[r.text("label")] = r.number(key)
			}
		}
		if figures[other] > 0 && figures[one] > 0 {
			found = append(found, figures[one]/figures[other])
		}
	}
	slices.Sort(found)
	return found
}

// medianInterval is a confidence interval of the median, between two of the sorted
// figures: the narrowest one, with as many below it as above, that misses with a
// probability of at most 5 %. Fewer than six figures are never sure enough: then it
// is all of them.
func medianInterval(sorted []float64) (low, high float64) {
	n := len(sorted)
	// A figure lies below the median with probability 1/2, so that k or fewer of n do
	// has the binomial probability "below".
	chance, below, skip := 1.0, 0.0, 0
	for range n {
		chance /= 2
	}
	for k := range n / 2 {
		if below += chance; 2*below > 0.05 {
			break
		}
		skip = k + 1
		chance = chance * float64(n-k) / float64(k+1)
	}
	// The interval begins with the figure that has skip-1 below it: between it and its
	// counterpart the median is missed only if at most skip-1 figures are on one side.
	skip = max(skip-1, 0)
	return sorted[skip], sorted[n-1-skip]
}
