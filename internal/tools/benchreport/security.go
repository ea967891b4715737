package main

import (
	"context"
	"fmt"
	"slices"
)

// The scenarios of the group security.
const (
	connectResumed = "connect-resumed"
	connectFull    = "connect-full"
	policyScenario = "policy-qos0"
	revokeScenario = "revoke"
)

// securityScenarios is a function, since those who measure look for their scenario.
func securityScenarios() []scenario {
	return []scenario{
		{
			name: connectResumed, seconds: 5, metric: mutualCPU, measure: measureConnects(connectResumed, true),
			brokers: []string{"mosquitto", "fairlead"}, rounds: func(o options) int { return o.repeat },
		},
		{
			name: connectFull, seconds: 5, metric: mutualCPU, measure: measureConnects(connectFull, false),
			brokers: []string{"mosquitto", "fairlead"}, rounds: func(o options) int { return o.repeat },
		},
		{
			name: policyScenario, args: "pairs -q 0", seconds: 2, metric: benchCPU, measure: measurePolicies,
			brokers: []string{"fairlead", "open"}, rounds: func(o options) int { return o.pairs },
		},
		{
			name: revokeScenario, args: "pairs -q 0 --pubs 1 --subs 1 --rate 1000", seconds: 3, metric: metric{"all_max_ms", "ms", "last client gone"}, measure: measureRevocation,
			brokers: []string{"fairlead"}, rounds: func(o options) int { return o.repeat },
		},
	}
}

// securityScenario is the one with the name.
func securityScenario(name string) scenario {
	all := securityScenarios()
	return all[slices.IndexFunc(all, func(s scenario) bool { return s.name == name })]
}

// mosquittoMutualTLS is Debian's mosquitto with the certificates of a fleet. It knows
// no policies here.
func mosquittoMutualTLS(ctx context.Context, o options) (broker, error) {
	b, err := mosquittoWith(ctx, "")
	if err != nil {
		return b, err
	}
	const more = "require_certificate true\nuse_identity_as_username true\n"
	b.version += said(more)
	b.files = func(l layout) map[string]string {
		return map[string]string{"mosquitto.conf": fmt.Sprintf(
			"log_type none\nallow_anonymous false\nlistener %s 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\n%s",
			l.tlsPort, l.fleet.root, l.fleet.cert, l.fleet.key, more)}
	}
	return b, nil
}

// fairleadWithIdentity is ours on the data directory of a fleet, with its defaults:
// nobody is anonymous, and what no policy allows is refused.
func fairleadWithIdentity(ctx context.Context, o options) (broker, error) {
	b, err := fairleadWith(ctx, o, "")
	if err != nil {
		return b, err
	}
	b.files = func(l layout) map[string]string {
		policies := ""
		if l.fleet.policies != "" {
			policies = fmt.Sprintf("policies: [%q]\n", l.fleet.policies)
		}
		return map[string]string{"fairlead.yaml": fmt.Sprintf(
			"data: %q\n%slisteners:\n  - mqtt://127.0.0.1:%s\n  - url: mqtts://127.0.0.1:%s\n    tls: {client_certificates: required}\n",
			l.fleet.data, policies, l.port, l.tlsPort)}
	}
	return b, nil
}
