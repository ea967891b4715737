package topic

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// The benchmarks look into a Trie with a million subscriptions, one client each:
// half without wildcards, a quarter with '+', a quarter with '#'; half below
// devices/<n>, one level of 125,000; half below t/<i>/<j>, two levels of 350.
const (
	million = 1_000_000
	devices = million / 8
	rows    = 354 // rows squared is about devices
)

// subscription returns the i-th filter of a million, all of them different.
func subscription(i int) string {
	n := i / 8
	switch i % 8 {
	case 0:
		return fmt.Sprintf("devices/%d/state", n)
	case 1:
		return fmt.Sprintf("devices/%d/command", n)
	case 2:
		return fmt.Sprintf("devices/%d/+/value", n)
	case 3:
		return fmt.Sprintf("devices/%d/#", n)
	case 4:
		return fmt.Sprintf("t/%d/%d/state", n/rows, n%rows)
	case 5:
		return fmt.Sprintf("t/%d/%d/command", n/rows, n%rows)
	case 6:
		return fmt.Sprintf("t/%d/+/%d", n/rows, n%rows)
	default:
		return fmt.Sprintf("t/%d/%d/x/#", n/rows, n%rows)
	}
}

// published returns a random Topic Name that one to three of a million filters
// match, but for a fifth of the names that none does.
func published(r *rand.Rand) string {
	n := r.IntN(devices)
	switch r.IntN(5) {
	case 0:
		return fmt.Sprintf("devices/%d/state", n)
	case 1:
		return fmt.Sprintf("devices/%d/temperature/value", n)
	case 2:
		return fmt.Sprintf("t/%d/%d/state", n/rows, n%rows)
	case 3:
		return fmt.Sprintf("t/%d/%d/x/y", n/rows, n%rows)
	default:
		return fmt.Sprintf("t/%d/%d/nobody/cares", n/rows, n%rows)
	}
}

type client struct{ _ int }

// subscribed is the Trie with a million subscriptions.
var subscribed = sync.OnceValue(func() *Trie[int, *client] {
	t := &Trie[int, *client]{}
	for i := range million {
		t.Set(subscription(i), i, &client{})
	}
	return t
})

// some returns random strings; they are made before the clock runs.
func some(random func(*rand.Rand) string) []string {
	r := rand.New(rand.NewPCG(5, 5))
	all := make([]string, 1<<18)
	for i := range all {
		all[i] = random(r)
	}
	return all
}

func BenchmarkTrieMatch(b *testing.B) {
	t, names := subscribed(), some(published)
	var dst []*client
	found := 0
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		dst = t.Match(names[i%len(names)], dst[:0])
		found += len(dst)
		i++
	}
	b.ReportMetric(float64(found)/float64(i), "found/op")
}

// The same few names over and over: what a CPU cache is good for.
func BenchmarkTrieMatchHot(b *testing.B) {
	t, names := subscribed(), some(published)[:100]
	var dst []*client
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		dst = t.Match(names[i%len(names)], dst[:0])
		i++
	}
}

// A client that comes and goes with a filter that nobody else has.
func BenchmarkTrieSetDelete(b *testing.B) {
	t := subscribed()
	filters := some(func(r *rand.Rand) string { return subscription(million + r.IntN(million)) })
	c := &client{}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f := filters[i%len(filters)]
		t.Set(f, -1, c)
		t.Delete(f, -1)
		i++
	}
}

// A client that joins and leaves filters that others have.
func BenchmarkTrieJoinLeave(b *testing.B) {
	t := subscribed()
	filters := some(func(r *rand.Rand) string { return subscription(r.IntN(million)) })
	c := &client{}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f := filters[i%len(filters)]
		t.Set(f, -1, c)
		t.Delete(f, -1)
		i++
	}
}

// One filter with 100,000 keys.
func BenchmarkTrieHotFilter(b *testing.B) {
	var t Trie[int, *client]
	c := &client{}
	for k := range 100_000 {
		t.Set("fleet/+/news", k, c)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		k := i * 7919 % 100_000
		t.Delete("fleet/+/news", k)
		t.Set("fleet/+/news", k, c)
		i++
	}
}

// Building a Trie: time and memory for one subscription. The strings are counted
// apart, for a Session has them anyway.
func BenchmarkTrieBuild(b *testing.B) {
	filters := make([]string, million)
	for i := range filters {
		filters[i] = subscription(i)
	}
	c := &client{}
	var bytes uint64
	for b.Loop() {
		before := heapInUse()
		t := &Trie[int, *client]{}
		for i, f := range filters {
			t.Set(f, i, c)
		}
		bytes += heapInUse() - before
		runtime.KeepAlive(t)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/subscription")
	b.ReportMetric(float64(bytes)/float64(b.N)/million, "B/subscription")
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// retained is a Names with a million Topic Names, eight for each device.
var retained = sync.OnceValue(func() *Names[*client] {
	n := &Names[*client]{}
	for i := range million {
		n.Set(fmt.Sprintf("devices/%d/state/%d", i/8, i%8), &client{})
	}
	return n
})

func BenchmarkNamesGetBytes(b *testing.B) {
	n := retained()
	names := some(func(r *rand.Rand) string { return fmt.Sprintf("devices/%d/state/%d", r.IntN(devices), r.IntN(8)) })
	var buf []byte
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		buf = append(buf[:0], names[i%len(names)]...)
		if _, ok := n.GetBytes(buf); !ok {
			b.Fatalf("%s not found", buf)
		}
		i++
	}
}

// A new subscription to one device: eight names of a million.
func BenchmarkNamesMatch(b *testing.B) {
	n := retained()
	patterns := some(func(r *rand.Rand) string { return fmt.Sprintf("devices/%d/#", r.IntN(devices)) })
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		found := 0
		n.Match(patterns[i%len(patterns)], func(string, *client) bool { found++; return true })
		if found != 8 {
			b.Fatalf("found %d", found)
		}
		i++
	}
}

func BenchmarkNamesSetDelete(b *testing.B) {
	n := retained()
	names := some(func(r *rand.Rand) string { return fmt.Sprintf("devices/%d/state/new", r.IntN(devices)) })
	c := &client{}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		name := names[i%len(names)]
		n.Set(name, c)
		n.Delete(name)
		i++
	}
}

func BenchmarkNamesBuild(b *testing.B) {
	names := make([]string, million)
	for i := range names {
		names[i] = fmt.Sprintf("devices/%d/state/%d", i/8, i%8)
	}
	c := &client{}
	var bytes uint64
	for b.Loop() {
		before := heapInUse()
		n := &Names[*client]{}
		for _, name := range names {
			n.Set(name, c)
		}
		bytes += heapInUse() - before
		runtime.KeepAlive(n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/name")
	b.ReportMetric(float64(bytes)/float64(b.N)/million, "B/name")
}

func BenchmarkCheckName(b *testing.B) {
	for b.Loop() {
		if err := CheckName("devices/123456/sensors/temperature"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseFilter(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseFilter("$share/group/devices/+/sensors/#"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for b.Loop() {
		if !Match("devices/+/sensors/#", "devices/123456/sensors/temperature") {
			b.Fatal("no match")
		}
	}
}
