package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/device"
	"fairlead/policy"
)

// TestSecuritySmall is the group security with numbers that take seconds.
func TestSecuritySmall(t *testing.T) {
	page := smallRun(t, "-group", "security", "-brokers", "^(fairlead|open)$",
		"-repeat", "1", "-pairs", "2", "-dur", "0.3", "-devices", "300", "-rules", "60", "-live", "1200")
	for _, row := range []string{
		"| `connect-resumed` | fairlead | 1 | ", "| `connect-full` | fairlead | 1 | ", "| TLS 1.3, ",
		"\n300 devices in the registry and 60 rules in the policies", "| broker CPU per message | ", "| messages a second | ", "| from exec to the first CONNACK | ", "| memory then | ",
		"\n1200 devices are connected and silent", "| nothing yet | ",
		"| one device is suspended | 1 | ", "| the certificate of one device is revoked | 1 | ",
		"| a policy takes the right to connect from up to 1,000 | 1000 | ", "| it takes the right from all others | 198 | ",
	} {
		if !strings.Contains(page, row) {
			t.Errorf("the page has no %q", row)
		}
	}
	for row, times := range map[string]int{
		" | 0 | 0 | 0 | 0 | ":  4, // of each step: nobody stayed, all were told, nobody else was disturbed, no message lost
		"did not come to":      0,
		"Not every run":        0,
		"could connect":        0,
		"against Mosquitto | ": 2,
		" | – | ":              2, // of Mosquitto, which is not there
	} {
		if got := strings.Count(page, row); got != times {
			t.Errorf("the page has %q %d times, want %d", row, got, times)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

// TestFleetsAreRemoved: the keys in them are of no use to anybody.
func TestFleetsAreRemoved(t *testing.T) {
	b := &bench{options: options{dir: t.TempDir()}}
	one := func() fleetSpec {
		return fleetSpec{devices: 1, certified: 1, passwords: 1, logins: 1, device: func(int) device.Device { return device.Device{Name: "d"} }}
	}
	first, err := b.fleetOf(t.Context(), "x", one)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.fleetOf(t.Context(), "x", one); err != nil || again != first {
		t.Errorf("a second fleet for the same scenario, %v", err)
	}
	if _, err := tls.LoadX509KeyPair(first.cert, first.key); err != nil {
		t.Error(err)
	}
	if got, want := readFile(t, first.logins), "d "+first.password("d")+"\n"; got != want || len(first.password("d")) != 32 {
		t.Errorf("logins %q, want %q", got, want)
	}
	bad := func() fleetSpec {
		return fleetSpec{devices: 2, device: func(int) device.Device { return device.Device{Name: "twice"} }}
	}
	if _, err := b.fleetOf(t.Context(), "y", bad); !errors.Is(err, device.ErrExists) {
		t.Errorf("two devices of one name: %v", err)
	}
	if err := b.removeFleets(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(b.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPolicyText: a document has exactly the rules that were asked for, and is one that
// a broker takes.
func TestPolicyText(t *testing.T) {
	for _, rules := range []int{1, 7, 60, 1000} {
		text := policyText(rules)
		if _, err := policy.Parse("policies", []byte(text)); err != nil {
			t.Errorf("%d rules: %v", rules, err)
		}
		if got := strings.Count(text, "\n      - "); got != rules {
			t.Errorf("%d rules, want %d", got, rules)
		}
	}
	spec := policyFleet(1, 1000)
	if spec.devices != policyPairs {
		t.Errorf("%d devices, want one for each of %d pairs", spec.devices, policyPairs)
	}
	if d := spec.device(89); len(d.Groups) != groupsEach || d.Groups[0] != "line-89" || d.Groups[1] != "line-0" {
		t.Errorf("groups %v, want three of 90", d.Groups)
	}
	if d := policyFleet(1, 1).device(5); len(d.Groups) > 0 {
		t.Errorf("groups %v, want none: there are no rules for them", d.Groups)
	}
}

func TestRevocationPolicies(t *testing.T) {
	for _, groups := range [][]string{nil, {"others"}, {"thousand", "others"}} {
		text := revokingPolicies(groups...)
		if _, err := policy.Parse("policies", []byte(text)); err != nil {
			t.Errorf("%v: %v\n%s", groups, err, text)
		}
	}
}

// TestEachIsTouchedOnce: every client has its step, whatever their number.
func TestEachIsTouchedOnce(t *testing.T) {
	for i := range 3000 {
		var steps []string
		for _, step := range revocations {
			if step.touches(i) {
				steps = append(steps, step.key)
			}
		}
		if len(steps) != 1 {
			t.Errorf("client %d is touched by %v, want one step", i, steps)
		}
	}
	for i, want := range map[int]string{0: "bystanders", 1: "others", 2: "thousand", 2 + thousand: "thousand", 3 + thousand: "others"} {
		if got := revokedDevice(i).Groups[0]; got != want {
			t.Errorf("device %d is in %s, want %s", i, got, want)
		}
	}
}

func TestLiveMost(t *testing.T) {
	if n, err := liveMost(10); err != nil || n != 10 {
		t.Errorf("liveMost = %d, %v, want 10", n, err)
	}
	if n, err := liveMost(1 << 62); err != nil || n < filesSpared || n == 1<<62 {
		t.Errorf("liveMost = %d, %v, want what the limit allows", n, err)
	}
}

// TestCrowd: who leaves is waited for and counted once, also those who should stay.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, begin := newCrowd(5), time.Now()
		touched := c.touched(func(i int) bool { return i < 2 })
		go func() {
			for i, told := range []bool{true, false} {
				time.Sleep(time.Second)
				c.note(i, departure{time.Now(), told})
			}
		}()
		c.note(4, departure{begin, true})
		if err := c.wait(t.Context(), touched); err != nil || time.Since(begin) != 2*time.Second {
			t.Errorf("waited for %v, %v, want 2 s", time.Since(begin), err)
		}
		s := &rig{bench: &bench{log: new(strings.Builder)}, r: result{}}
		s.countGone("x", c.take(), touched, begin)
		want := result{"x_clients": 2.0, "x_stayed": 0.0, "x_untold": 1.0, "x_disturbed": 1.0, "x_p50_ms": 2000.0, "x_max_ms": 2000.0}
		if fmt.Sprint(s.r) != fmt.Sprint(want) {
			t.Errorf("counted %v, want %v", s.r, want)
		}
		if rest := c.touched(func(int) bool { return true }); fmt.Sprint(rest) != "[2 3]" {
			t.Errorf("still there are %v, want 2 and 3", rest)
		}
		if err := c.wait(t.Context(), []int{2}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of 1 clients are still connected") {
			t.Errorf("waiting for one who stays: %v", err)
		}
		s.countGone("y", c.take(), []int{2}, begin)
		if s.r.number("y_stayed") != 1 {
			t.Errorf("counted %v, want one who stayed", s.r)
		}
	})
}

// TestConnectsThatFail are counted, and the first says why.
func TestConnectsThatFail(t *testing.T) {
	s := &rig{r: result{}}
	some := []*mutualClient{
		{login: login{id: "a"}, took: []float64{3, 1}, resumed: 1},
		{login: login{id: "b"}, took: []float64{2, 4}, resumed: 2, failed: 3, err: os.ErrClosed},
	}
	err := s.countConnects(some, 2, 0.5, 0.25)
	if !errors.Is(err, os.ErrClosed) || !strings.HasPrefix(err.Error(), "b: ") {
		t.Errorf("error %v, want that of b", err)
	}
	if s.r.number("rate") != 2 || s.r.number("failed") != 3 || s.r.number("resumed_percent") != 75 || s.r.number("p50_us") != 3 || s.r.number(mutualCPU.key) != 125_000 {
		t.Errorf("counted %v", s.r)
	}
	if err := s.countConnects(some[:0], 2, 0, 0); err == nil {
		t.Error("no connect at all gave no error")
	}
}

const measuredSecurity = `{"group":"security","devices":100000,"rules":1000}
{"run":"connect-resumed","label":"mosquitto","round":0,"rate":1000,"resumed_percent":0,"cpu_us_per_connect":400,"failed":0,"tls":"TLS 1.3, X25519"}
{"run":"connect-resumed","label":"fairlead","round":0,"rate":900,"resumed_percent":99.5,"cpu_us_per_connect":300,"p50_us":2500,"p99_us":9000,"failed":1,"tls":"TLS 1.3, X25519MLKEM768","note":"gate-1: reset"}
{"run":"connect-full","label":"mosquitto","round":0,"rate":500}
{"run":"connect-full","label":"fairlead","round":0,"rate":1000}
{"run":"policy-qos0","label":"fairlead","round":0,"rate":900000,"broker.cpu_us_per_message":0.55,"start_seconds":1.5,"start_mib":300}
{"run":"policy-qos0","label":"open","round":0,"rate":1000000,"broker.cpu_us_per_message":0.5,"start_seconds":0.1,"start_mib":30}
{"run":"revoke","label":"fairlead","round":0,"n":19500,"connect_seconds":4,"live_mib":400,"some_clients":1000,"some_command_ms":20,"some_p50_ms":30,"some_max_ms":60,"some_stayed":0,"some_untold":0,"some_disturbed":0,"some_lost":0,"some_p99_us":900,"some_max_us":5000,"quiet_lost":0,"quiet_p99_us":300,"quiet_max_us":400}
{"run":"revoke","label":"fairlead","round":1,"n":19500,"connect_seconds":4,"live_mib":400,"some_clients":1000,"some_command_ms":22,"some_p50_ms":40,"some_max_ms":1060,"some_stayed":0,"some_untold":2,"some_disturbed":1,"some_lost":3}
`

func TestSecurityPage(t *testing.T) {
	wantLines(t, part(t, "security", measuredSecurity),
		"| `connect-resumed` | fairlead | 1 | 900 (900–900) | 99.5 % | 300 (300–300) | – | 2.50 | 9 | 1 | TLS 1.3, X25519MLKEM768 | gate-1: reset |\n",
		"| `connect-resumed` | connects a second, against Mosquitto | ≥ 1× | 0.90× | no |\n",
		"| `connect-full` | connects a second, against Mosquitto | ≥ 1× | 2× | yes |\n",
		"\n100,000 devices in the registry and 1000 rules in the policies",
		"| broker CPU per message | 0.55 µs | 0.50 µs | 1 | 1.100 | 1.100–1.100 | ≤ 1.05 | no |\n",
		"| messages a second | 900,000 | 1,000,000 | 1 | 0.900 | 0.900–0.900 |  |  |\n",
		"| memory then | 300 MiB | 30 MiB |\n",
		"| nothing yet | | | | | | | | | 0 | 300 | 400 |\n",
		// max and what went wrong are those of the worst round.
		"| a policy takes the right to connect from up to 1,000 | 1000 | 21 | 35 | 1060 | ≤ 1000 | no | 0 | 2 | 1 | 3 | 900 | 5000 |\n",
	)
	if empty := part(t, "security", `{"group":"security"}`); strings.Contains(empty, "###") {
		t.Errorf("without results there are sections:\n%s", empty)
	}
}

// TestMosquittoConfiguration: it must show the fleet's certificate, and ask for one.
func TestMosquittoConfiguration(t *testing.T) {
	b, err := mosquittoMutualTLS(t.Context(), options{})
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("mosquitto is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{root: "/f/ca.crt", cert: "/f/server.crt", key: "/f/server.key"}
	text := b.files(layout{tlsPort: "8883", fleet: f})["mosquitto.conf"]
	for _, line := range []string{"listener 8883 127.0.0.1", "cafile /f/ca.crt", "certfile /f/server.crt", "keyfile /f/server.key", "require_certificate true", "use_identity_as_username true", "allow_anonymous false"} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("mosquitto.conf has no %q:\n%s", line, text)
		}
	}
	if filepath.Base(b.command(layout{dir: "/l"})[0]) != "mosquitto" {
		t.Errorf("command %q", b.command(layout{dir: "/l"}))
	}
}
