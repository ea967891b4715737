package main

import (
	"fmt"
	"io"
)

// A scaleFigure is a row of the table of a scenario.
type scaleFigure struct {
	key, name, unit string
	divide          float64 // from what was measured to the unit; 0: 1
	must            float64 // at most; only where bound is set
	bound           bool
}

const inMiB = 1 << 20

// weights are the rows of the figures that [rig.weigh] has noted under a name.
func weights(key, when string) []scaleFigure {
	return []scaleFigure{
		{key: key + "_rss", name: "memory " + when, unit: "MiB", divide: inMiB},
		{key: key + "_peak", name: "its peak", unit: "MiB", divide: inMiB},
		{key: key + "_disk", name: "on disk", unit: "MiB", divide: inMiB},
	}
}

// latencies are the rows of the figures that [rig.note] has noted under a name.
func latencies(key, when string) []scaleFigure {
	return []scaleFigure{
		{key: key + "_p50_us", name: when + ": p50", unit: "µs"},
		{key: key + "_p99_us", name: "p99", unit: "µs"},
		{key: key + "_max_us", name: "max", unit: "µs"},
		{key: key + "_samples", name: "messages of the pair"},
	}
}

var (
	publishFigures = []scaleFigure{
		{key: "publish_seconds", name: "publish, to the last PUBACK", unit: "s"},
		{key: "publish_rate", name: "a second"},
	}
	restartFigures = []scaleFigure{{key: "restart_seconds", name: "`kill -9`, then from exec to the first CONNACK", unit: "s", must: 5, bound: true}}
	lossFigures    = []scaleFigure{
		{key: "lost", name: "lost", bound: true}, {key: "duplicates", name: "doubled"}, {key: "unexplained", name: "not to be explained", bound: true},
	}
	orderFigures = []scaleFigure{{key: "disordered", name: "out of order", bound: true}}
)

// scaleTables are the rows for each scenario, with a heading.
func scaleTables() map[string][]scaleFigure {
	drain := []scaleFigure{{key: "drain_seconds", name: "return and drain", unit: "s"}, {key: "drain_rate", name: "a second"}}
	tables := make(map[string][]scaleFigure)
	add := func(run string, parts ...[]scaleFigure) {
		for _, part := range parts {
			tables[run] = append(tables[run], part...)
		}
	}
	add("queue", publishFigures, weights("published", "with the queue"), restartFigures, weights("restarted", "after the restart"),
		drain, weights("drained", "after the drain"), lossFigures, orderFigures)
	add("sessions", []scaleFigure{{key: "connect_seconds", name: "connect, subscribe and leave", unit: "s"}, {key: "connect_rate", name: "clients a second"}},
		weights("connected", "with the sessions"), publishFigures, weights("published", "with their queues"), restartFigures, weights("restarted", "after the restart"),
		[]scaleFigure{{key: "return_seconds", name: "return of a sample of at most 1,000", unit: "s"}}, weights("drained", "after that"), lossFigures, orderFigures)
	add("retained", publishFigures, weights("published", "with the messages"),
		[]scaleFigure{{key: "drain_seconds", name: "SUBSCRIBE to `#`, to the last of them", unit: "s"}, {key: "drain_rate", name: "a second"}},
		latencies("quiet", "another pair of clients, while nothing else happens"), latencies("matched", "while messages are sent for `#`, which matches those of the pair as well"),
		weights("drained", "after that"), restartFigures, weights("restarted", "after the restart"),
		[]scaleFigure{{key: "again_seconds", name: "SUBSCRIBE to `retained/#`, to the last of them", unit: "s"}, {key: "again_rate", name: "a second"}},
		latencies("apart", "the pair meanwhile, which this filter does not match"), lossFigures)
	return tables
}

// scale is the part of the group scale.
func (p *report) scale(w io.Writer) {
	fmt.Fprint(w, "## At scale\n\nFairlead alone, with its defaults but for limits on numbers, each scenario in an empty directory. Messages have QoS 1 and 64 bytes. The broker is killed by `kill -9` as soon as the last message is acknowledged. The clients share the machine's cores with it.\n\n")
	p.circumstances(w)
	headings := map[string]string{
		"queue":    "messages queued for one absent client",
		"sessions": "absent clients with 10 messages each",
		"retained": "retained messages",
	}
	for i, s := range scaleScenarios {
		r, ok := p.only(s.name)
		if !ok {
			continue
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "### %s %s\n\n", figure(r.number("n")), headings[s.name])
		if note := p.notes(s.name, r.text("label")); note != "" {
			fmt.Fprintf(w, "**It did not come to its end**: %s\n\n", note)
		}
		fmt.Fprint(w, "| | measured | must |\n|---|---|---|\n")
		for _, f := range scaleTables()[s.name] {
			fmt.Fprint(w, f.line(r))
		}
	}
}

// only is the one result of a scenario.
func (p *report) only(run string) (result, bool) {
	for _, r := range p.results {
		if r.text("run") == run {
			return r, true
		}
	}
	return nil, false
}

func (f scaleFigure) line(r result) string {
	measured, must := "–", ""
	if _, ok := r[f.key]; ok {
		measured = figure(r.number(f.key)/max(f.divide, 1)) + unit(f.unit)
	}
	if f.bound {
		must = "≤ " + figure(f.must) + unit(f.unit)
	}
	return fmt.Sprintf("| %s | %s | %s |\n", f.name, measured, must)
}
