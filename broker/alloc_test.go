//go:build !race

package broker

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// TestNoAllocationPerMessage holds the path of a QoS 0 message to none.
func TestNoAllocationPerMessage(t *testing.T) {
	br := New(Options{})
	for i := range 10 {
		sink(br, fmt.Sprint("s", i), "sensors/a/b", mqtt.QoS0)
	}
	const reads = 2000
	publish := &packet.Publish{Topic: []byte("sensors/a/b"), Payload: make([]byte, 64)}
	pub := &faucet{
		first: frames(mqtt.V311, &packet.Connect{Version: mqtt.V311, ClientID: "pub", CleanStart: true}),
		again: bytes.Repeat(frames(mqtt.V311, publish), batch), left: reads,
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	br.Serve(pub)
	runtime.ReadMemStats(&after)
	if per := float64(after.Mallocs-before.Mallocs) / (reads * batch); per > 0.02 {
		t.Errorf("%.3f allocations for a QoS 0 message, want none", per)
	}
}
