package device_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/store"
	"fairlead/store/mem"
)

// fillKV writes typical devices: two groups, two attributes, a certificate.
func fillKV(t testing.TB, kv store.KV, n int) {
	t.Helper()
	var ops []store.Op
	for i := range n {
		d := &device.Device{
			Name: fmt.Sprintf("device-%06d", i), State: auth.Active, Groups: []string{"doors", fmt.Sprintf("site-%d", i%100)},
			Attrs:        map[string]string{"site": fmt.Sprintf("site-%d", i%100), "serial_number": fmt.Sprintf("SN%010d", i)},
			Certificates: []device.Certificate{{Serial: ca.Serial(fmt.Sprintf("%040x", i+1<<60)[24:]), NotAfter: time.Unix(1<<31, 0).UTC(), Fingerprint: audit.Hash{1}}},
			Created:      time.Unix(1<<30, 0).UTC(), Updated: time.Unix(1<<30, 0).UTC(),
		}
		value, err := device.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, store.Op{Key: "registry/device/" + d.Name, Value: value})
	}
	if err := kv.Batch(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
}

const fleet = 100_000

// BenchmarkOpen reads 100,000 devices. It reports the time and the memory for one.
func BenchmarkOpen(b *testing.B) {
	kv := mem.New().KV()
	fillKV(b, kv, fleet)
	for b.Loop() {
		before := heap()
		start := time.Now()
		r, err := device.Open(b.Context(), kv, device.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Nanoseconds())/fleet, "ns/device")
		r.Close() // ends its look at what it knows already
		b.ReportMetric(float64(heap()-before)/fleet, "B/device")
		if n := r.Stats().Devices; n != fleet {
			b.Fatal(n)
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkDevice(b *testing.B) {
	kv := mem.New().KV()
	fillKV(b, kv, fleet)
	r := open(b, kv)
	names := make([]string, 1024)
	for i := range names {
		names[i] = fmt.Sprintf("device-%06d", i*97)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.Device(names[i%len(names)]); !ok {
			b.Fatal("it isn't there")
		}
		i++
	}
}

// BenchmarkList looks through all devices for one group.
func BenchmarkList(b *testing.B) {
	kv := mem.New().KV()
	fillKV(b, kv, fleet)
	r := open(b, kv)
	for b.Loop() {
		if list, _, err := r.Devices(device.Filter{Group: "none"}, device.Page{}); err != nil || len(list) != 0 {
			b.Fatal(len(list), err)
		}
	}
}
