package main

import (
	"fmt"
	"io"
)

const (
	policyAim = 1.05 // how much more CPU a message may need with identity and policies
	goneMust  = 1000 // milliseconds from a command to the end of the last connection
)

// security is the part of the group security.
func (p *report) security(w io.Writer) {
	fmt.Fprint(w, "## What security costs\n\nEach broker is freshly started for each figure. The clients share the machine's cores with it.\n\n")
	p.circumstances(w)
	p.securityConnects(w)
	p.securityPolicies(w)
	p.securityRevocation(w)
}

// securityConnects is about mutual TLS.
func (p *report) securityConnects(w io.Writer) {
	if len(p.labels(connectResumed))+len(p.labels(connectFull)) == 0 {
		return
	}
	fmt.Fprintf(w, "### Connects by certificate\n\n%d clients, each with a certificate of Fairlead's CA, connect and disconnect again and again: TCP, TLS 1.3 with certificates on both sides, CONNECT, CONNACK, DISCONNECT. "+
		"Both brokers show the same server certificate; Mosquitto takes the name from the certificate and has no access control list, Fairlead looks the device up and asks its policies. "+
		"With resumption, clients offer the session of their last connection. Time: from before the TCP connection to after CONNACK, with all of them at it. Medians, with the least and the most of the rounds.\n\n", mutualClients)
	fmt.Fprint(w, "| scenario | broker | rounds | connects/s | resumed | broker CPU µs/connect | client CPU µs/connect | p50 ms | p99 ms | failed | TLS | notes |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, run := range []string{connectResumed, connectFull} {
		for _, label := range p.labels(run) {
			rates := p.of(run, label, "rate")
			fmt.Fprintf(w, "| `%s` | %s | %d | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", run, label, len(rates), spread(rates),
				p.cell(run, label, metric{key: "resumed_percent", unit: "%"}), spread(p.of(run, label, mutualCPU.key)),
				p.cell(run, label, metric{key: "bench_cpu_us_per_connect"}), p.inMillis(run, label, "p50_us"), p.inMillis(run, label, "p99_us"),
				p.most(run, label, "failed"), p.word(run, label, "tls"), p.notes(run, label))
		}
	}
	fmt.Fprint(w, "\n| scenario | what | must | measured | met |\n|---|---|---|---|---|\n")
	for _, run := range []string{connectResumed, connectFull} {
		g := goal{what: "connects a second, against Mosquitto", figure: against(run, "rate", "mosquitto"), atLeast: true, must: 1, unit: "×"}
		fmt.Fprintf(w, "| `%s` %s", run, g.line(p))
	}
	fmt.Fprintln(w)
}

// inMillis is a median in microseconds, shown in milliseconds.
func (p *report) inMillis(run, label, key string) string {
	v, ok := p.median(run, label, key)
	if !ok {
		return "–"
	}
	return figure(v / 1e3)
}

// word is what the first result of a broker says in a scenario.
func (p *report) word(run, label, key string) string {
	for _, r := range p.results {
		if r.text("run") == run && r.text("label") == label && r.text(key) != "" {
			return r.text(key)
		}
	}
	return "–"
}

// securityPolicies is about what a message costs.
func (p *report) securityPolicies(w io.Writer) {
	ratios := p.pairRatios(policyScenario, benchCPU.key, "fairlead", "open")
	if len(p.labels(policyScenario)) == 0 {
		return
	}
	fmt.Fprintf(w, "### Identity and policies, per message\n\n%s devices in the registry and %s rules in the policies, of which each device has its share, are compared with `--open` on an empty data directory, in pairs of short runs in the order A B B A. "+
		"`fairlead bench pairs -q 0` has %d pairs, each of two connections of one device with its password. The figures are ratios within a pair; the interval holds the median ratio with 95 %% probability or more, whatever the distribution.\n\n",
		figure(float64(p.Devices)), figure(float64(p.Rules)), policyPairs)
	fmt.Fprint(w, "| figure | with policies | open | pairs | ratio | 95 % interval | aim | met |\n|---|---|---|---|---|---|---|---|\n")
	p.policyLine(w, benchCPU, ratios, fmt.Sprintf("≤ %.2f", policyAim), func(low, high float64) string { return verdict(low, high, policyAim) })
	rate := metric{key: "rate", name: "messages a second"}
	p.policyLine(w, rate, p.pairRatios(policyScenario, rate.key, "fairlead", "open"), "", func(float64, float64) string { return "" })
	fmt.Fprint(w, "\n| | with policies | open |\n|---|---|---|\n")
	for _, m := range []metric{{"start_seconds", "s", "from exec to the first CONNACK"}, {"start_mib", "MiB", "memory then"}} {
		fmt.Fprintf(w, "| %s | %s | %s |\n", m.name, p.cell(policyScenario, "fairlead", m), p.cell(policyScenario, "open", m))
	}
	for _, label := range p.labels(policyScenario) {
		if note := p.notes(policyScenario, label); note != "" {
			fmt.Fprintf(w, "\n**Not every run came to its end** (%s): %s\n", label, note)
		}
	}
	fmt.Fprintln(w)
}

func (p *report) policyLine(w io.Writer, m metric, ratios []float64, aim string, met func(low, high float64) string) {
	mid, ok := median(ratios)
	if !ok {
		return
	}
	low, high := medianInterval(ratios)
	fmt.Fprintf(w, "| %s | %s | %s | %d | %.3f | %.3f–%.3f | %s | %s |\n", m.name, p.cell(policyScenario, "fairlead", m), p.cell(policyScenario, "open", m),
		len(ratios), mid, low, high, aim, met(low, high))
}

// securityRevocation is about how soon a right has ended.
func (p *report) securityRevocation(w io.Writer) {
	const label = "fairlead"
	if len(p.labels(revokeScenario)) == 0 {
		return
	}
	what := securityScenario(revokeScenario)
	seconds := what.seconds
	if p.Seconds > 0 {
		seconds = p.Seconds
	}
	fmt.Fprintf(w, "### From a revocation to the end of the connection\n\n%s devices are connected and silent, one by its certificate, the others by their passwords; they connect within %s, and the broker has %s of memory then. "+
		"Time: from before the call to admin.sock to after the client has read DISCONNECT, or the end. The pair is two clients of another process that nothing is taken from, with a message of QoS 0 each millisecond (`fairlead bench %s`): its latency in the %g s in which the step happens. "+
		"Medians of %d rounds; max, and what went wrong, in the worst one.\n\n",
		p.cell(revokeScenario, label, metric{key: "n"}), p.cell(revokeScenario, label, metric{key: "connect_seconds", unit: "s"}),
		p.cell(revokeScenario, label, metric{key: "live_mib", unit: "MiB"}), what.args, seconds, len(p.of(revokeScenario, label, "n")))
	fmt.Fprint(w, "| what | clients | command ms | p50 ms | max ms | must | met | stayed | without DISCONNECT | others disturbed | pair lost | pair p99 µs | pair max µs |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	fmt.Fprintf(w, "| nothing yet | | | | | | | | | %s | %s | %s |\n", p.most(revokeScenario, label, "quiet_lost"), p.cell(revokeScenario, label, metric{key: "quiet_p99_us"}), p.most(revokeScenario, label, "quiet_max_us"))
	for _, step := range revocations {
		longest := p.of(revokeScenario, label, step.key+"_max_ms")
		if len(longest) == 0 {
			continue
		}
		met := "no"
		if longest[len(longest)-1] <= goneMust && p.most(revokeScenario, label, step.key+"_stayed") == "0" {
			met = "yes"
		}
		cell := func(key string) string { return p.cell(revokeScenario, label, metric{key: step.key + key}) }
		most := func(key string) string { return p.most(revokeScenario, label, step.key+key) }
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | ≤ %d | %s | %s | %s | %s | %s | %s | %s |\n", step.name, cell("_clients"), cell("_command_ms"), cell("_p50_ms"),
			most("_max_ms"), goneMust, met, most("_stayed"), most("_untold"), most("_disturbed"), most("_lost"), cell("_p99_us"), most("_max_us"))
	}
	if note := p.notes(revokeScenario, label); note != "" {
		fmt.Fprintf(w, "\n**Not every run came to its end**: %s\n", note)
	}
}
