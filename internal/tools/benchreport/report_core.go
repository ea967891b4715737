package main

import (
	"fmt"
	"io"
)

// core is the part of the group core.
func (p *report) core(w io.Writer) {
	fmt.Fprintf(w, "## Side by side\n\nEach figure is the median of %d rounds. In a round every broker takes its turn in every scenario, each time freshly started in an empty directory; the generator shares the machine's cores with it. Sessions end with their connections, but for `offline`, so no broker has to keep anything.\n\n", p.rounds())
	p.circumstances(w)
	p.coreSummary(w)
	p.coreDetails(w)
	p.coreArguments(w)
	p.coreMicro(w)
}

// coreSummary is the table that the goals are held against.
func (p *report) coreSummary(w io.Writer) {
	fmt.Fprint(w, "### Against the goals\n\n\"Ratio\" is Fairlead's figure divided by Mosquitto's from the same rounds. \"Must\" and \"aim\" bound the ratio, or, with a unit, the figure itself.\n\n")
	fmt.Fprint(w, "| scenario | figure | Mosquitto | mochi | Fairlead | ratio | must | aim | Fairlead lost |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range coreScenarios {
		ours, ok := p.median(s.name, "fairlead", s.metric.key)
		theirs, both := p.median(s.name, "mosquitto", s.metric.key)
		if !ok && !both {
			continue // not measured this time
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s | %s | %s | %s | %s |\n", s.name, s.metric.name,
			p.cell(s.name, "mosquitto", s.metric), p.cell(s.name, "mochi", s.metric), p.cell(s.name, "fairlead", s.metric), ratio(ours, theirs),
			s.bound(s.must), s.bound(s.aim), p.lost(s.name, "fairlead"))
	}
	fmt.Fprintln(w)
}

func (s scenario) bound(v float64) string {
	if s.absolute {
		return "≤ " + figure(v) + " " + s.metric.unit
	}
	return fmt.Sprintf("≤ %.2f×", v)
}

// coreDetails has every broker's rate, CPU with its spread, and what was lost.
func (p *report) coreDetails(w io.Writer) {
	fmt.Fprint(w, "### All figures\n\nRate: distinct deliveries (or connects) a second. CPU: the broker's user and system time per delivery, with the least and the most of the rounds. "+
		"Lost: acknowledged (QoS 1, 2) or sent (QoS 0) and not delivered, in the worst round; a broker that loses can look fast.\n\n")
	fmt.Fprint(w, "| scenario | broker | rounds | rate/s | CPU µs/msg (min–max) | lost | duplicates | notes |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range coreScenarios {
		for _, label := range p.labels(s.name) {
			rates := p.of(s.name, label, "rate")
			rate, _ := median(rates)
			fmt.Fprintf(w, "| `%s` | %s | %d | %s | %s | %s | %s | %s |\n", s.name, label, len(rates),
				figure(rate), spread(p.of(s.name, label, cpuPerMessage.key)), p.lost(s.name, label), p.most(s.name, label, "dup"), p.notes(s.name, label))
		}
	}
	fmt.Fprintln(w)
}

// coreArguments lists exactly what was run.
func (p *report) coreArguments(w io.Writer) {
	fmt.Fprint(w, "### Scenarios\n\nThe load generator's arguments, beside `-addr` and `-pid`; all else has its default (64 byte payloads, MQTT 3.1.1).\n\n| scenario | arguments |\n|---|---|\n")
	for _, s := range coreScenarios {
		fmt.Fprintf(w, "| `%s` | `loadgen %s` |\n", s.name, s.args)
	}
}

// coreMicro shows the benchmarks beside the code as they were printed.
func (p *report) coreMicro(w io.Writer) {
	if len(p.Micro) == 0 {
		return
	}
	fmt.Fprint(w, "\n### Beside the code\n\nWhat `make benchmicro` printed, in the same run.\n\n```text\n")
	for _, line := range p.Micro {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w, "```")
}
