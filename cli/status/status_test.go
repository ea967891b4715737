package status

import (
	"strings"
	"testing"
	"time"

	"fairlead/admin"
)

func TestPrint(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	before := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	st := &admin.Status{
		Version: "1.2", Began: *before(3 * time.Hour), Now: now, Data: "/var/lib/fairlead", Durability: "os",
		Trouble:     []admin.Trouble{{What: "journal", Error: "append: no space left on device", Means: "Nothing can be written.", Since: before(time.Minute)}},
		Connections: 12, Sessions: 1234, Subscriptions: 1,
		Queued:   admin.Queued{Messages: 1_000_000, Bytes: 5 << 20, DiskBytes: 4 << 20, Oldest: before(26 * time.Hour)},
		Retained: admin.Retained{Messages: 1, Bytes: 100},
		Dropped:  map[string]uint64{"expired": 3, "absent": 1500},
		Biggest: []admin.Queue{
			{Client: "ledger", Messages: 999_000, Bytes: 4 << 20, DiskBytes: 4 << 20, InFlight: 10, Online: true, Oldest: before(26 * time.Hour)},
			{Client: "a\x1b[2J", Messages: 1},
		},
		Store: &admin.Store{
			JournalRecords: 1, JournalBytes: 3 << 20, KVBytes: 1 << 30, FreeBytes: 77 << 30, WrittenBytes: 1 << 20,
			Sync: admin.Latency{Count: 1000, P50: 512, P99: 2048, Max: 8192}, Checkpoint: before(1500 * time.Millisecond),
		},
	}
	const want = `fairlead 1.2 on /var/lib/fairlead, up 3h 0m

TROUBLE  journal: append: no space left on device, since 2026-11-25 11:59:00 (1m 0s)
         Nothing can be written.

durability   os, WEAKER THAN THE DEFAULT: a loss of power takes the latest acknowledged messages with it
connections  12
sessions     1,234 with 1 subscription
queued       1,000,000 messages, 5.0 MiB, of which 4.0 MiB on disk; the oldest for 1d 2h
retained     1 message, 100 B
dropped      1,500 absent, 3 expired
journal      1 record, 3.0 MiB
write        p50 ≤ 512 µs, p99 ≤ 2.05 ms, max ≤ 8.19 ms, of 1,000
checkpoint   1.5 s ago
disk         3.0 MiB journal + 1.0 GiB key-value store; 77.0 GiB free
written      1.0 MiB since the start

biggest queues:
  messages     size  on disk  in flight  oldest  connected  client
   999,000  4.0 MiB  4.0 MiB         10   1d 2h        yes  ledger
         1      0 B      0 B          0       -         no  "a\x1b[2J"
`
	var b strings.Builder
	if err := print(&b, st); err != nil || b.String() != want {
		t.Errorf("%v, got:\n%s\nwant:\n%s", err, b.String(), want)
	}
	st.Store, st.Durability, st.Trouble, st.Biggest = nil, "memory", nil, nil
	b.Reset()
	if err := print(&b, st); err != nil || !strings.Contains(b.String(), "memory, WEAKER") || strings.Contains(b.String(), "journal") {
		t.Errorf("in memory: %v, got:\n%s", err, b.String())
	}
}
