package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/cli"
	"fairlead/client"
	"fairlead/config"
	"fairlead/mqtt"
	"fairlead/node"
)

// TestHistogram compares quantiles with those of the sorted values.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	var sum time.Duration
	for range 100_000 {
		d := time.Duration(math.Exp(random.Float64() * 22))
		h.add(d)
		all = append(all, d)
		sum += d
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := h.quantile(q); math.Abs(float64(got-want)) > 0.035*float64(want)+1 {
			t.Errorf("quantile(%v) = %v, want %v within 3.5 %%", q, got, want)
		}
	}
	if got, want := h.quantiles().Mean, float64(sum)/float64(len(all))/1e3; math.Abs(got-want) > 1e-6*want {
		t.Errorf("mean %v µs, want %v", got, want)
	}
	if last := bucket(math.MaxInt64); last >= len(h.counts) {
		t.Errorf("the longest duration has bucket %d of %d", last, len(h.counts))
	}
	if new(histogram).quantiles() != nil {
		t.Error("an empty histogram has quantiles")
	}
}

// TestBook notes messages out of order, twice, and with gaps.
func TestBook(t *testing.T) {
	const recall = recallMin
	b := book{recall: recall}
	for _, step := range []struct {
		seq         uint32
		fresh, late bool
	}{{0, true, false}, {1, true, false}, {1, false, true}, {5, true, false}, {3, true, true}, {3, false, true}, {6, true, false},
		{recall + 100, true, false}, {recall + 99, true, true}, {recall + 99, false, true}, {2, true, true}} {
		if fresh, late := b.note(step.seq); fresh != step.fresh || late != step.late {
			t.Errorf("note(%d) = %v, %v, want %v, %v", step.seq, fresh, late, step.fresh, step.late)
		}
	}
}

// TestRecall: what was queued for long is remembered whole, in whatever order it
// comes.
func TestRecall(t *testing.T) {
	l := &load{settings: &settings{name: "offline", shape: shape{pubs: 2}, count: 4*recallMin + 1}}
	if got := l.recall(); got != 4*recallMin {
		t.Errorf("recall of %d messages is %d, want %d", l.limitOf(0), got, 4*recallMin)
	}
	l.name = "pairs"
	if got := l.recall(); got != recallMin {
		t.Errorf("recall while messages flow is %d, want %d", got, recallMin)
	}
}

// TestFlight: no two messages under way have one Packet Identifier, in whatever
// order they are acknowledged.
func TestFlight(t *testing.T) {
	const window = 7
	random := rand.New(rand.NewPCG(3, 4))
	f := newFlight(window)
	under := make(map[mqtt.PacketID]time.Duration)
	for at := time.Duration(1); at < 10_000; at++ {
		if f.n < window && random.IntN(2) == 0 {
			id := f.begin(at)
			if _, twice := under[id]; twice || id == 0 {
				t.Fatalf("Packet Identifier %d is given away twice, or 0", id)
			}
			under[id] = at
		}
		id := mqtt.PacketID(random.IntN(window + 2))
		want, ok := under[id]
		if sent, found := f.end(id); found != ok || sent != want {
			t.Fatalf("end(%d) = %v, %v, want %v, %v", id, sent, found, want, ok)
		}
		delete(under, id)
		if f.n != len(under) {
			t.Fatalf("%d under way, want %d", f.n, len(under))
		}
	}
}

func TestBarLine(t *testing.T) {
	counted := &bar{name: "pairs", count: func() uint64 { return 0 }}
	silent := &bar{name: "idle"}
	for _, tt := range []struct {
		bar  *bar
		part float64
		more uint64
		want string
	}{
		{counted, 0, 0, "pairs [..............................]   0 %  0/s"},
		{counted, 0.5, 200, "pairs [###############...............]  50 %  1000/s"},
		{counted, 1.7, 1, "pairs [##############################] 100 %  5/s"},
		{silent, 0.1, 7, "idle [###...........................]  10 %"},
		{silent, -1, 0, "idle [..............................]   0 %"},
	} {
		if got := tt.bar.line(tt.part, tt.more); got != tt.want {
			t.Errorf("line(%v, %d) = %q, want %q", tt.part, tt.more, got, tt.want)
		}
	}
}

// TestBarDraws: it draws five times a second, and is gone when it is cleared.
func TestBarDraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drawn bytes.Buffer
		n := uint64(0)
		b := &bar{w: &drawn, name: "x", part: func(d time.Duration) float64 { return d.Seconds() / 2 }, count: func() uint64 { n += 10; return n }}
		clear := b.run()
		time.Sleep(barEvery*2 + barEvery/2)
		clear()
		want := "\r\x1b[Kx [###...........................]  10 %  50/s" +
			"\r\x1b[Kx [######........................]  20 %  50/s" + "\r\x1b[K"
		if drawn.String() != want {
			t.Errorf("drawn %q, want %q", &drawn, want)
		}
	})
}

// TestBarNeedsATerminal: whatever else standard error is stays clean.
func TestBarNeedsATerminal(t *testing.T) {
	l := &load{env: &cli.Env{Stderr: new(bytes.Buffer)}}
	if b := l.newBar("x", nil, nil); b.w != nil {
		t.Error("a buffer counts as a terminal")
	}
	terminal, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, as terminals are
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	l.env.Stderr = terminal
	if b := l.newBar("x", nil, nil); b.w != terminal {
		t.Error("a terminal gets no bar")
	}
}

// serve runs a broker that keeps what it must on disk, and returns its port.
func serve(t *testing.T) (port string) {
	t.Helper()
	c := config.Default()
	c.Data, c.Open, c.Sys.Interval = t.TempDir(), true, 0
	c.Listeners = []config.Listener{{URL: "mqtt://127.0.0.1:0"}}
	ready, over := make(chan string, 1), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { // ends with stop
		over <- node.Run(ctx, node.Node{Config: c, Logger: slog.New(slog.DiscardHandler), Ready: func(urls []string) { ready <- urls[0] }})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-over; err != nil {
			t.Errorf("the broker: %v", err)
		}
	})
	select {
	case url := <-ready:
		return url[strings.LastIndexByte(url, ':')+1:]
	case err := <-over:
		over <- nil
		t.Fatal(err)
	}
	return ""
}

// bench runs one command line and returns what it has printed.
func bench(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, complaints bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &complaints, Getenv: func(string) string { return "" }, Environ: func() []string { return nil }}
	root := &cli.Command{Name: "fairlead", Commands: []*cli.Command{Command}}
	if code := cli.Main(t.Context(), env, root, append([]string{"bench"}, args...)); code != 0 {
		err = &cli.ExitError{Code: code}
	}
	if complaints.Len() > 0 {
		t.Logf("fairlead bench %s: %s", strings.Join(args, " "), &complaints)
		if err == nil {
			t.Errorf("fairlead bench %s complains: %s", strings.Join(args, " "), &complaints)
		}
	}
	return out.String(), err
}

// TestScenarios runs each of them for a known number of messages.
func TestScenarios(t *testing.T) {
	port := serve(t)
	for _, tt := range []struct {
		args                     string
		accepted, received       uint64
		durable                  bool
		acks, latency, drainRate bool
	}{
		{"pairs --pubs 3 --subs 3 -n 301 -q 0", 301, 301, false, false, true, false},
		{"pairs --pubs 3 --subs 3 -n 301 -q 1 -c -x 60", 301, 301, true, true, true, false},
		{"pairs --pubs 3 --subs 3 -n 301 -q 1 -x 60 -c --window 65535", 301, 301, true, true, true, false},
		{"pairs --pubs 3 --subs 3 -n 301 -q 2 -c -V 311", 301, 301, true, true, true, false},
		{"pairs --pubs 3 --subs 3 -n 301 -q 1 --rate 100000", 301, 301, false, true, true, false},
		{"fanin --pubs 4 -n 100 -q 1", 100, 100, false, true, true, false},
		{"fanout --subs 5 -n 100 -q 2", 100, 500, false, true, true, false},
		{"ack -n 50", 50, 50, false, true, true, false},
		{"offline --subs 2 --pubs 3 -n 1000", 1000, 2000, true, true, false, true},
		{"offline -n 1000 -V 311 -q 2", 1000, 1000, true, true, false, true},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, err := bench(t, append(strings.Fields(tt.args), "--json", "-p", port, "--duration", "60", "--pid", strconv.Itoa(os.Getpid()))...)
			if err != nil {
				t.Fatal(err)
			}
			var r result
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			if r.Sent != tt.accepted || r.Accepted != tt.accepted || r.Received != tt.received || r.Lost+r.Duplicates+r.Disordered+r.Refused+r.Broken > 0 {
				t.Errorf("%s, want %d accepted, %d received, and no problems", out, tt.accepted, tt.received)
			}
			if r.Durable != tt.durable || (r.Ack != nil) != tt.acks || (r.Latency != nil) != tt.latency || (r.DrainRate > 0) != tt.drainRate {
				t.Errorf("%s, want durable %v, ack_us %v, latency_us %v, drain_rate %v", out, tt.durable, tt.acks, tt.latency, tt.drainRate)
			}
			if r.Rate <= 0 || r.Seconds <= 0 || r.QoS > 0 && r.PublishRate <= 0 {
				t.Errorf("%s, want rates", out)
			}
			if q := r.Ack; q != nil && (q.P50 <= 0 || q.Mean <= 0 || q.P99 < q.P50 || q.Max < q.P99) {
				t.Errorf("ack_us %+v: expected quantiles in order", q)
			}
			if r.Broker == nil || r.Broker.RSS <= 0 || r.Broker.RSSPeak < r.Broker.RSS/2 {
				t.Errorf("%s, want what the broker has used", out)
			}
		})
	}
	if out, err := bench(t, "pairs", "-c", "-n", "1", "--pubs", "1", "--subs", "1", "-q", "1", "-p", port); err != nil || !strings.Contains(out, "sessions kept") || !strings.Contains(out, "acks") {
		t.Errorf("%v, printed %q", err, out)
	}
}

// TestClients runs the scenarios that send no messages.
func TestClients(t *testing.T) {
	port := serve(t)
	for args, connected := range map[string]int{"connect --clients 2 -c": -1, "idle --clients 3 -c": 3} {
		out, err := bench(t, append(strings.Fields(args), "--duration", "100ms", "--json", "-p", port)...)
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		if r.Connected <= 0 || connected > 0 && r.Connected != connected || r.Broken > 0 {
			t.Errorf("%s printed %s", args, out)
		}
	}
}

// TestJSONNames: programs read these names.
func TestJSONNames(t *testing.T) {
	disk, ratio := int64(1), 2.0
	text, err := json.Marshal(&result{PublishRate: 1, DrainRate: 1, Ack: &quantiles{}, Latency: &quantiles{},
		Broker: &brokerUse{CPUPublish: 1, CPUDrain: 1, Disk: &disk, DiskByte: &ratio}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"scenario":"","mqtt_version":"","qos":0,"size":0,"publishers":0,"subscribers":0,"window":0,"durable":false,` +
		`"seconds":0,"connected":0,"sent":0,"accepted":0,"refused":0,"received":0,"lost":0,"duplicates":0,"disordered":0,"broken":0,` +
		`"rate":0,"publish_rate":1,"drain_rate":1,` +
		`"ack_us":{"p50":0,"mean":0,"p90":0,"p99":0,"p999":0,"max":0},"latency_us":{"p50":0,"mean":0,"p90":0,"p99":0,"p999":0,"max":0},` +
		`"broker":{"cpu_seconds":0,"cpu_us_per_message":0,"cpu_us_per_publish":1,"cpu_us_per_drained":1,"rss_bytes":0,"rss_peak_bytes":0,` +
		`"disk_written_bytes":1,"disk_bytes_per_payload_byte":2,"bench_cpu_seconds":0}}`
	if string(text) != want {
		t.Errorf("JSON %s,\nwant %s", text, want)
	}
}

// TestNothingStays: the sessions of -c are gone when the bench is, and the broker
// is asked for them in a way that it would show.
func TestNothingStays(t *testing.T) {
	l, port := &load{settings: &settings{keep: true, expiry: 60}, runID: 7}, serve(t)
	l.env = &cli.Env{Stderr: new(bytes.Buffer)}
	l.options = client.Options{URL: "mqtt://127.0.0.1:" + port, Version: mqtt.V5}
	present := func() bool {
		c, err := l.dial(t.Context(), 0, true)
		if err != nil {
			t.Fatal(err)
		}
		defer c.part()
		return c.sessionPresent
	}
	if present() || !present() {
		t.Error("a durable session was there before, or not kept")
	}
	l.sessions.Store(1)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	l.forget(canceled)
	if present() {
		t.Error("the session is still there")
	}
}

func TestWrongCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"ack -q 0":                 "expected 1 or 2",
		"offline --qos 0":          "expected 1 or 2",
		"offline -x 0":             "ends with its connection",
		"pairs -c -x 0":            "ends with its connection",
		"pairs -x 5 -V 311":        "needs MQTT 5.0",
		"pairs -x never":           "expected seconds",
		"pairs -n 0":               "whole number",
		"pairs --pid 0":            "whole number",
		"pairs --duration 1ms":     "at least 100ms",
		"offline --topic a/+":      "without wildcards",
		"fanout --pubs 2":          "one publisher",
		"pairs -t a/{user}":        "expected --logins",
		"pairs --logins f -u me":   "no -u and -P",
		"pairs --pubs 2 --subs 3 ": "as many of both",
	} {
		var out, complaints bytes.Buffer
		env := &cli.Env{Stdout: &out, Stderr: &complaints, Getenv: func(string) string { return "" }}
		root := &cli.Command{Name: "fairlead", Commands: []*cli.Command{Command}}
		code := cli.Main(t.Context(), env, root, append([]string{"bench"}, strings.Fields(args)...))
		if code != cli.ExitUsage || !strings.Contains(complaints.String(), want) {
			t.Errorf("bench %s: exit code %d, %q, want 2 and %q", args, code, &complaints, want)
		}
	}
}

// TestLoss is an error, though a result is printed.
func TestLoss(t *testing.T) {
	var out bytes.Buffer
	err := new(settings).print(&cli.Env{Stdout: &out}, &result{Scenario: "pairs", QoS: 1, Lost: 3})
	if err == nil || !strings.Contains(err.Error(), "3 messages") || !strings.Contains(out.String(), "3 lost") {
		t.Errorf("error %v, printed %q", err, &out)
	}
	if err := new(settings).print(&cli.Env{Stdout: &out}, &result{Scenario: "pairs", Lost: 3}); err != nil {
		t.Errorf("QoS 0 may be lost, and yet: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	for _, tt := range []struct {
		args    string
		durable bool
		seconds uint32
	}{
		{"", false, 3600}, {"-c", true, 3600}, {"-x 5", true, 5}, {"-c -x -1", true, math.MaxUint32}, {"-x 0", false, 0},
	} {
		b := &settings{name: "pairs", shape: shape{1, 1}, expiry: 3600}
		if _, err := b.flags().Parse(strings.Fields(tt.args)); err != nil {
			t.Fatal(err)
		}
		if b.durable() != tt.durable || b.connectProperties().SessionExpiry != tt.seconds {
			t.Errorf("%q: durable %v for %d s, want %v, %d", tt.args, b.durable(), b.connectProperties().SessionExpiry, tt.durable, tt.seconds)
		}
	}
}
