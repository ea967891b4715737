package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

// A machine is the shape of where the figures come from.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Memory string `json:"memory"`
	Go     string `json:"go"`
}

// thisMachine asks the kernel. What it does not say stays empty.
func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.CPU = field("/proc/cpuinfo", "model name")
	var kib int64
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d kB", &kib); err == nil {
		m.Memory = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel, _, _ = strings.Cut(strings.TrimSpace(string(release)), "-")
	return m
}

// field is the value of the first "name: value" line of a file.
func field(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// A header is the first line of a file of results.
type header struct {
	Group    string   `json:"group"`
	Date     string   `json:"date"`
	Machine  machine  `json:"machine"`
	Disk     string   `json:"disk"`     // file system of the brokers' data
	Versions []string `json:"versions"` // of the brokers, in the order of measuring
	Missing  []string `json:"missing"`  // brokers that could not be had, and why
	Seconds  float64  `json:"seconds"`  // -dur, where it was shortened
	Micro    []string `json:"micro"`    // lines of the benchmarks beside the code
	Devices  int      `json:"devices"`  // -devices
	Rules    int      `json:"rules"`    // -rules
}

// A report is a file of results: one part of docs/performance.md.
type report struct {
	header
	results []result
}

// readReport reads a header and then one result a line.
func readReport(r io.Reader) (*report, error) {
	p := new(report)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return nil, errors.Join(errors.New("no results: expected a header"), lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), &p.header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for lines.Scan() {
		var one result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("result %d: %w", len(p.results)+1, err)
		}
		p.results = append(p.results, one)
	}
	return p, lines.Err()
}

// rounds is how often the brokers took their turns.
func (p *report) rounds() int {
	n := 0
	for _, r := range p.results {
		n = max(n, 1+int(r.number("round")))
	}
	return n
}

// of are the figures of one broker in one scenario that are there at all.
func (p *report) of(run, label, key string) []float64 {
	var found []float64
	for _, r := range p.results {
		if _, ok := r[key]; ok && r.text("run") == run && r.text("label") == label {
			found = append(found, r.number(key))
		}
	}
	slices.Sort(found)
	return found
}

// median of the figures of one broker in one scenario.
func (p *report) median(run, label, key string) (m float64, ok bool) {
	return median(p.of(run, label, key))
}

// median of sorted figures; ok is false if there are none.
func median(sorted []float64) (m float64, ok bool) {
	n := len(sorted)
	if n == 0 {
		return 0, false
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, true
}

// labels are the brokers measured in a scenario, in the order of the results.
func (p *report) labels(run string) []string {
	var found []string
	for _, r := range p.results {
		if label := r.text("label"); r.text("run") == run && !slices.Contains(found, label) {
			found = append(found, label)
		}
	}
	return found
}

// write renders the part of the page as Markdown.
func (p *report) write(w io.Writer, g group) error {
	out := bufio.NewWriter(w)
	g.write(p, out)
	return out.Flush()
}

// circumstances are what every part begins with: when, where, and which.
func (p *report) circumstances(w io.Writer) {
	if p.Seconds > 0 {
		fmt.Fprintf(w, "**Shortened run**: publishing stopped after %g s, so short scenarios rest on few clock ticks.\n\n", p.Seconds)
	}
	m := p.Machine
	fmt.Fprintf(w, "%s, on: %s, %d cores, %s memory, Linux %s. Go programs built with %s.", p.Date, m.CPU, m.Cores, m.Memory, m.Kernel, m.Go)
	if p.Disk != "" {
		fmt.Fprintf(w, " Data on %s.", p.Disk)
	}
	fmt.Fprint(w, "\n\n")
	for _, v := range p.Versions {
		fmt.Fprintf(w, "- %s\n", v)
	}
	for _, m := range p.Missing {
		fmt.Fprintf(w, "- not measured, %s\n", m)
	}
	fmt.Fprintln(w)
}

// cell is a broker's median figure, or a dash.
func (p *report) cell(run, label string, m metric) string {
	v, ok := p.median(run, label, m.key)
	if !ok {
		return "–"
	}
	return strings.TrimSpace(figure(v) + " " + m.unit)
}

// lost is what a broker lost in a scenario: the most of all rounds, since the median
// would hide it.
func (p *report) lost(run, label string) string { return p.most(run, label, "lost") }

func (p *report) most(run, label, key string) string {
	found := p.of(run, label, key)
	if len(found) == 0 {
		return "–"
	}
	return figure(found[len(found)-1])
}

// spread is the median with the least and the most of the rounds.
func spread(sorted []float64) string {
	m, ok := median(sorted)
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", figure(m), figure(sorted[0]), figure(sorted[len(sorted)-1]))
}

func ratio(ours, theirs float64) string {
	if ours == 0 || theirs == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f×", ours/theirs)
}

// figure writes a number with the digits that mean something.
func figure(v float64) string {
	switch {
	case v >= 10000:
		return thousands(int64(v + 0.5))
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// noteMax keeps a broker's error text from filling the table.
const noteMax = 120

// notes are the different words on what went wrong.
func (p *report) notes(run, label string) string {
	var found []string
	for _, r := range p.results {
		note := strings.Join(strings.Fields(strings.ReplaceAll(r.text("note"), "|", "/")), " ")
		if note = note[:min(len(note), noteMax)]; note != "" && r.text("run") == run && r.text("label") == label && !slices.Contains(found, note) {
			found = append(found, strings.ToValidUTF8(note, ""))
		}
	}
	return strings.Join(found, "; ")
}

// benchmarks are the lines of a benchmark run that hold figures.
func benchmarks(text string) (found []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "Benchmark") && strings.Contains(line, "ns/op") {
			found = append(found, strings.TrimRight(strings.ReplaceAll(line, "\t", " "), " \n"))
		}
	}
	return found
}
