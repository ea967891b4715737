package main

import (
	"strings"
	"testing"
)

// three rounds of one scenario; the middle figure is what counts.
const measured = `{"run":"pairs-qos1","label":"mosquitto","round":0,"rate":60000,"broker_cpu_us_per_msg":14,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"fairlead","round":0,"rate":900000,"broker_cpu_us_per_msg":1.4,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"mosquitto","round":1,"rate":70000,"broker_cpu_us_per_msg":12,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"fairlead","round":1,"rate":1000000,"broker_cpu_us_per_msg":1.1,"lost":0,"dup":0}
{"run":"pairs-qos1","label":"mosquitto","round":2,"rate":10000,"broker_cpu_us_per_msg":50,"lost":3,"dup":0}
{"run":"pairs-qos1","label":"fairlead","round":2,"note":"a run | that\nbroke"}
{"run":"idle","label":"fairlead","round":0,"bytes_per_conn":4400}
`

func TestReport(t *testing.T) {
	results, err := readResults(strings.NewReader(measured))
	if err != nil {
		t.Fatal(err)
	}
	p := &report{date: "2026-01-02", machine: machine{cpu: "a processor", cores: 2}, versions: []string{"fairlead: 1"}, results: results}
	var page strings.Builder
	if err := p.write(&page); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Each figure is the median of 3 rounds.",
		// The median of 1.1 and 1.4, since the third run brought no figure, over 14.
		"| `pairs-qos1` | broker CPU per message | 14 µs | – | 1.25 µs | 0.09× | ≤ 0.20× | ≤ 0.08× | 0 |",
		"| `idle` | resident memory per connection | – | – | 4400 bytes | – | ≤ 6500 bytes | ≤ 4500 bytes | – |",
		"| `pairs-qos1` | mosquitto | 3 | 60,000 | 14 (12–50) | 0 | 0 |  |",
		"| `pairs-qos1` | fairlead | 2 | 950,000 | 1.25 (1.10–1.40) | 0 | 0 | a run / that broke |",
		"| `pairs-qos2` | `loadgen pairs -qos 2 -window 20` |",
	} {
		if !strings.Contains(page.String(), line+"\n") && !strings.Contains(page.String(), line) {
			t.Errorf("the report has no %q:\n%s", line, &page)
		}
	}
	if strings.Contains(page.String(), "| `fanout` | broker CPU") {
		t.Error("the summary has a scenario that was not measured")
	}
}

func TestReadResultsNamesTheBadOne(t *testing.T) {
	_, err := readResults(strings.NewReader("{}\nnonsense\n"))
	if err == nil || !strings.Contains(err.Error(), "result 2") {
		t.Errorf("error %v, want one that names result 2", err)
	}
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
