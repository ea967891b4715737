package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"fairlead/device"
)

const (
	policyPairs    = 50 // publishers and subscribers, each pair a device; as `fairlead bench pairs` has by default
	rulesEach      = 10 // of the policy of a group
	everybodyShare = 10 // one rule of so many is for every device
	groupsEach     = 3  // that a device is in
)

// measurePolicies has pairs of clients exchange messages of QoS 0. With the broker
// called open nobody is asked for anything and the data directory is empty; else there
// are the devices and the rules of the command line.
func measurePolicies(ctx context.Context, b *bench, broker broker) (result, error) {
	f, err := b.fleetOf(ctx, policyScenario, func() fleetSpec { return policyFleet(b.devices, b.rules) })
	if err != nil {
		return nil, err
	}
	s := &rig{bench: b, broker: broker, probe: login{id: "probe"}, l: layout{fleet: f}, r: result{}}
	if broker.name != "open" {
		s.probe = f.byPassword(policyDevice(0, 1).Name, "")
	}
	return s.run(ctx, func(ctx context.Context, s *rig) error {
		if err := s.settle(ctx); err != nil {
			return err
		}
		rss, _, err := s.p.memory()
		if err != nil {
			return err
		}
		s.r["start_mib"] = mib(float64(rss))
		what := securityScenario(policyScenario)
		found, err := b.load(ctx, what, append(b.benchLine(what, s.l, s.p.Pid), "--logins", f.logins, "-t", "devices/{user}/bench"))
		for key, v := range found {
			s.r[key] = v
		}
		return err
	})
}

const (
	settleEvery = 250 * time.Millisecond
	settleTicks = 0.015 // seconds of CPU time in a settleEvery: one tick of the kernel's, at most
	settleMost  = 20 * time.Second
)

// settle waits until a broker that has just started has nothing more to do: what it does
// once must not count as the cost of messages. A broker that never rests is an error.
func (s *rig) settle(ctx context.Context) error {
	before, err := s.p.cpu()
	for begin := time.Now(); err == nil && time.Since(begin) < settleMost; {
		if err = pause(ctx, settleEvery); err != nil {
			break
		}
		var now float64
		if now, err = s.p.cpu(); now-before < settleTicks {
			s.r["settle_seconds"] = time.Since(begin).Seconds()
			return err
		}
		before = now
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the broker has not come to rest within %v", settleMost)
}

// policyFleet are the devices, and rules of which each device has its share.
func policyFleet(devices, rules int) fleetSpec {
	groups := len(ruleGroups(rules))
	devices = max(devices, policyPairs)
	return fleetSpec{
		devices: devices, passwords: policyPairs, logins: policyPairs, policies: policyText(rules),
		device: func(i int) device.Device { return policyDevice(i, groups) },
	}
}

func policyDevice(i, groups int) device.Device {
	d := device.Device{
		Name:  fmt.Sprintf("device-%06d", i),
		Attrs: map[string]string{"site": fmt.Sprintf("site-%d", i%100), "serial_number": fmt.Sprintf("SN%010d", i)},
	}
	for k := range min(groupsEach, groups) {
		d.Groups = append(d.Groups, groupName((i+k)%groups))
	}
	return d
}

func groupName(g int) string { return fmt.Sprintf("line-%d", g) }

// ruleGroups are how many rules each group has: those that are not for every device.
func ruleGroups(rules int) (each []int) {
	left := rules - (rules+everybodyShare-1)/everybodyShare
	for left > 0 {
		each = append(each, min(left, rulesEach))
		left -= rulesEach
	}
	return each
}

// policyText is a document with so many rules: of those that a plant has, for every
// device and for groups of them.
func policyText(rules int) string {
	var text strings.Builder
	text.WriteString("policies:\n")
	next := writePolicy(&text, "everybody", "every device", 0, (rules+everybodyShare-1)/everybodyShare)
	for g, n := range ruleGroups(rules) {
		next = writePolicy(&text, groupName(g), "{groups: "+groupName(g)+"}", next, n)
	}
	return text.String()
}

// writePolicy writes a policy with n rules, which have numbers from first on.
func writePolicy(text *strings.Builder, name, who string, first, n int) (next int) {
	fmt.Fprintf(text, "  %s:\n    who: %s\n", name, who)
	var allow, deny []string
	for k := first; k < first+n; k++ {
		switch k % 5 {
		case 0: // the topics that the messages go by are looked for among these
			deny = append(deny, fmt.Sprintf("publish: devices/{device}/locked-%d/#", k))
		case 1:
			allow = append(allow, fmt.Sprintf("publish: plant/{attr.site}/line-%d/{device}/#", k))
		case 2:
			allow = append(allow, fmt.Sprintf("subscribe: plant/+/line-%d/settings", k))
		case 3:
			allow = append(allow, fmt.Sprintf("publish: telemetry/%d/{device}/+\n        max_qos: 1", k))
		case 4:
			allow = append(allow, fmt.Sprintf("subscribe: \"fleet/{group}/%d/#\"", k))
		}
	}
	for _, part := range []struct {
		name  string
		rules []string
	}{{"allow", allow}, {"deny", deny}} {
		if len(part.rules) > 0 {
			fmt.Fprintf(text, "    %s:\n      - %s\n", part.name, strings.Join(part.rules, "\n      - "))
		}
	}
	return first + n
}
