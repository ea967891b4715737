package main

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// three rounds of one scenario; the middle figure is what counts.
const measured = `{"group":"core","date":"2026-01-02","machine":{"cpu":"a processor","cores":2},"versions":["fairlead: 1"],"missing":["mochi: out of reach"]}
{"run":"pairs-qos1","label":"mosquitto","round":0,"rate":60000,"broker_cpu_us_per_msg":14,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"fairlead","round":0,"rate":900000,"broker_cpu_us_per_msg":1.4,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"mosquitto","round":1,"rate":70000,"broker_cpu_us_per_msg":12,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"fairlead","round":1,"rate":1000000,"broker_cpu_us_per_msg":1.1,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"mosquitto","round":2,"rate":10000,"broker_cpu_us_per_msg":50,"lost":3,"dup":0}
{"run":"pairs-qos1","label":"fairlead","round":2,"note":"a run | that\nbroke"}
{"run":"idle","label":"fairlead","round":0,"bytes_per_conn":4400}
`

// part renders results as a part of the page.
func part(t *testing.T, name, results string) string {
	t.Helper()
	p, err := readReport(strings.NewReader(results))
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	if err := p.write(&page, groupOf(t, name)); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func wantLines(t *testing.T, page string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(page, line) {
			t.Errorf("the page has no %q:\n%s", line, page)
		}
	}
}

func TestCore(t *testing.T) {
	page := part(t, "core", measured)
	wantLines(t, page,
		"Each figure is the median of 3 rounds.",
		"2026-01-02, on: a processor, 2 cores",
		"- fairlead: 1\n- not measured, mochi: out of reach\n",
		// The median of 1.1 and 1.4, since the third run brought no figure, over 14.
		"| `pairs-qos1` | broker CPU per message | 14 µs | – | 1.25 µs | 0.09× | ≤ 0.20× | ≤ 0.08× | 0 |\n",
		"| `idle` | resident memory per connection | – | – | 4400 bytes | – | ≤ 6500 bytes | ≤ 4500 bytes | – |\n",
		"| `pairs-qos1` | mosquitto | 3 | 60,000 | 14 (12–50) | 3 | 0 |  |\n", // what the worst round lost
		"| `pairs-qos1` | fairlead | 2 | 950,000 | 1.25 (1.10–1.40) | 0 | 0 | a run / that broke |\n",
		"| `pairs-qos2` | `loadgen pairs -qos 2 -window 20` |\n",
	)
	if strings.Contains(page, "| `fanout` | broker CPU") {
		t.Error("the summary has a scenario that was not measured")
	}
}

const measuredDurable = `{"group":"durable","date":"2026-01-02","disk":"ext4","seconds":2}
{"run":"pairs-qos1","label":"mosquitto","round":0,"rate":50000,"lost":0,"broker":{}}
{"run":"pairs-qos1","label":"fairlead","round":0,"rate":70000,"lost":0,"duplicates":0,"disordered":0,"broker.cpu_us_per_message":5.5,"broker.disk_bytes_per_payload_byte":3.25}
{"run":"pairs-qos2","label":"fairlead","round":0,"rate":70000,"lost":2,"duplicates":0,"disordered":0}
{"run":"ack","label":"fairlead","round":0,"ack_us.p50":150,"ack_us.mean":160,"ack_us.p99":400}
{"run":"ack","label":"fdatasync","round":0,"ack_us.p50":100,"ack_us.mean":110,"ack_us.p99":300}
{"run":"offline","label":"fairlead","round":0,"publish_rate":250000,"drain_rate":99000,"accepted":100000,"lost":0,"duplicates":0,"disordered":0,"broker.cpu_us_per_publish":2,"broker.cpu_us_per_drained":1}
`

func TestDurable(t *testing.T) {
	wantLines(t, part(t, "durable", measuredDurable),
		"**Shortened run**: publishing stopped after 2 s",
		" Data on ext4.",
		"against Mosquitto that keeps nothing | ≥ 1.50× | 1.40× | no |\n",
		"| the same: broker CPU per message | ≤ 5 µs | 5.50 µs | no |\n",
		"| lost, in all scenarios and rounds | ≤ 0 | 2 | no |\n",
		"on a file that grows | ≤ 1.50× | 1.50× | yes |\n",
		"on a file that was filled ahead | ≤ 1.50× | – | – |\n",
		"messages taken a second | ≥ 100,000 | 250,000 | yes |\n",
		"delivered a second when it returns | ≥ 100,000 | 99,000 | no |\n",
		"| `pairs-qos1` | fairlead | 1 | 70,000 (70,000–70,000) | 5.50 (5.50–5.50) | 3.25 | 0 | 0 | 0 |  |\n",
		"| fdatasync | 100 (100–100) | 110 | 300 |  |\n",
		"| fairlead | 1 | 100,000 | 250,000 (250,000–250,000) | 99,000 (99,000–99,000) | 2 | 1 | 0 | 0 | 0 |  |\n",
		"| `ack` | `fairlead bench ack -c` | 2 |\n",
	)
}

func TestMemory(t *testing.T) {
	wantLines(t, part(t, "memory", `{"group":"memory"}
{"run":"pairs-qos0","label":"fsync","round":0,"broker.cpu_us_per_message":1.01}
{"run":"pairs-qos0","label":"memory","round":0,"broker.cpu_us_per_message":1}
{"run":"pairs-qos0","label":"memory","round":1,"broker.cpu_us_per_message":1}
{"run":"pairs-qos0","label":"fsync","round":1,"broker.cpu_us_per_message":1.02}
{"run":"pairs-qos1","label":"memory","round":0,"broker.cpu_us_per_message":1}
`), "in 2 pairs of short runs", "| `fairlead bench pairs -q 0` | 1.02 | 1 | 2 | 1.015 | 1.010–1.020 | ≤ 1.03 | yes |\n")
	for _, tt := range []struct {
		low, high float64
		want      string
	}{{0.9, 1.03, "yes"}, {0.9, 1.04, "undecided: more pairs are needed"}, {1.031, 1.04, "no"}} {
		if got := verdict(tt.low, tt.high, memoryMust); got != tt.want {
			t.Errorf("verdict(%v, %v) = %q, want %q", tt.low, tt.high, got, tt.want)
		}
	}
}

// TestMedianInterval: for 20 figures it is that from the 6th to the 15th, as tables of
// the sign test say, and it misses as rarely as promised, however skewed the figures.
func TestMedianInterval(t *testing.T) {
	for n, skipped := range map[int]int{1: 0, 5: 0, 6: 0, 8: 0, 9: 1, 20: 5, 50: 17, 100: 39} {
		sorted := make([]float64, n)
		for i := range sorted {
			sorted[i] = float64(i)
		}
		if low, high := medianInterval(sorted); low != float64(skipped) || high != float64(n-1-skipped) {
			t.Errorf("%d figures: %v to %v, want %d to %d", n, low, high, skipped, n-1-skipped)
		}
	}
	random := rand.New(rand.NewPCG(5, 6))
	missed := 0
	const rounds = 10_000
	for range rounds {
		sample := make([]float64, 20)
		for i := range sample {
			sample[i] = math.Exp(3 * random.NormFloat64())
		}
		slices.Sort(sample)
		if low, high := medianInterval(sample); low > 1 || high < 1 {
			missed++
		}
	}
	if missed > rounds*5/100 || missed < rounds/100 {
		t.Errorf("the interval missed the median %d times in %d, want some, and at most 5 %%", missed, rounds)
	}
}

func TestPage(t *testing.T) {
	page := joinPage(map[string]string{"core": "## A\n", "scale": "## D\n"})
	wantLines(t, page, "<!-- begin core -->\n## A\n<!-- end core -->\n", "Not measured yet: the brokers side by side with sessions that must not be lost (`make bench-durable`).\n")
	parts, err := splitPage(page)
	if err != nil || len(parts) != 2 || parts["core"] != "## A\n" || parts["scale"] != "## D\n" {
		t.Errorf("splitPage = %q, %v", parts, err)
	}
	if again := joinPage(parts); again != page {
		t.Errorf("split and joined again it is another page:\n%s", again)
	}
	if _, err := splitPage(partBegin("core") + "no end"); err == nil {
		t.Error("a part without an end gave no error")
	}
}

// TestOtherPartsStay: a run replaces its own part alone.
func TestOtherPartsStay(t *testing.T) {
	dir := t.TempDir()
	o := options{work: dir, out: filepath.Join(dir, "page.md")}
	before := joinPage(map[string]string{"core": "old\n", "durable": "stays\n"})
	for name, text := range map[string]string{o.out: before, filepath.Join(dir, "core.jsonl"): measured} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := groupOf(t, "core").writePart(o); err != nil {
		t.Fatal(err)
	}
	page := readFile(t, o.out)
	wantLines(t, page, partBegin("durable")+"stays\n"+partEnd("durable"), "## Side by side")
	if strings.Contains(page, "old\n") {
		t.Error("the old part is still there")
	}
}

// TestPerformancePage: the page of the repository can be added to.
func TestPerformancePage(t *testing.T) {
	page := readFile(t, "../../../docs/performance.md")
	parts, err := splitPage(page)
	if err != nil {
		t.Fatal(err)
	}
	if joinPage(parts) != page {
		t.Error("docs/performance.md was edited by hand outside of its parts, or was not written anew: `go run ./internal/tools/benchreport -report`")
	}
}

func TestReadReportNamesTheBadLine(t *testing.T) {
	for text, want := range map[string]string{"": "header", "nonsense": "header", "{}\n{}\nnonsense\n": "result 2"} {
		if _, err := readReport(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("readReport(%q): error %v, want one that names the %s", text, err, want)
		}
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add(measured)
	f.Add(measuredDurable)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := readReport(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, g := range groups() {
			if g.name == "memory" && p.rounds() > 1000 {
				continue // its work grows with the rounds that the file claims
			}
			if err := p.write(new(strings.Builder), g); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.126: "0.13", 9.994: "9.99", 12.34: "12.3", 123.4: "123", 4400: "4400", 28019.4: "28,019", 1234567: "1,234,567"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestBenchmarks(t *testing.T) {
	got := benchmarks("goos: linux\nBenchmarkA\nBenchmarkB/x-2 \t 10\t 5.0 ns/op\nok\n")
	if len(got) != 1 || got[0] != "BenchmarkB/x-2   10  5.0 ns/op" {
		t.Errorf("benchmarks = %q", got)
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		sorted []float64
		want   float64
		ok     bool
	}{{nil, 0, false}, {[]float64{7}, 7, true}, {[]float64{1, 2, 9}, 2, true}, {[]float64{1, 2, 4, 9}, 3, true}} {
		if got, ok := median(tt.sorted); got != tt.want || ok != tt.ok {
			t.Errorf("median(%v) = %v, %t, want %v, %t", tt.sorted, got, ok, tt.want, tt.ok)
		}
	}
}
