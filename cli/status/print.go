package status

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// print writes the status for people.
func print(to io.Writer, st *admin.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "fairlead %s on %s, up %s\n", st.Version, cli.Printable(st.Data), ago(st, &st.Began))
	for _, t := range st.Trouble {
		since := ""
		if t.Since != nil {
			since = fmt.Sprintf(", since %s (%s)", t.Since.Local().Format(time.DateTime), ago(st, t.Since))
		}
		fmt.Fprintf(&b, "\nTROUBLE  %s: %s%s\n         %s\n", t.What, t.Error, since, t.Means)
	}
	b.WriteByte('\n')
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, line := range lines(st) {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	w.Flush() // a strings.Builder takes everything
	queues(&b, st)
	_, err := io.WriteString(to, b.String())
	return err
}

// ago is how long before the status something was.
func ago(st *admin.Status, t *time.Time) string { return cli.Span(st.Now.Sub(*t)) }

// durabilities says what each word means for an acknowledged message.
var durabilities = map[string]string{
	"fsync":  "fsync: what is acknowledged is on disk",
	"os":     "os, WEAKER THAN THE DEFAULT: a loss of power takes the latest acknowledged messages with it",
	"memory": "memory, WEAKER THAN THE DEFAULT: nothing survives the end of the broker",
}

func lines(st *admin.Status) [][2]string {
	durability := durabilities[st.Durability]
	if durability == "" {
		durability = st.Durability
	}
	out := [][2]string{
		{"durability", durability},
		{"connections", cli.Count(st.Connections)},
		{"sessions", fmt.Sprintf("%s with %s", cli.Count(st.Sessions), cli.Things(st.Subscriptions, "subscription"))},
		{"queued", queued(st)},
		{"retained", fmt.Sprintf("%s, %s", cli.Things(st.Retained.Messages, "message"), cli.Size(st.Retained.Bytes))},
	}
	for _, counts := range []struct {
		name string
		of   map[string]uint64
	}{{"dropped", st.Dropped}, {"refused", st.Refused}, {"ended", st.Ended}} {
		if len(counts.of) > 0 {
			out = append(out, [2]string{counts.name, counted(counts.of)})
		}
	}
	if st.Store != nil {
		out = append(out, storeLines(st)...)
	}
	return out
}

func queued(st *admin.Status) string {
	q := st.Queued
	s := fmt.Sprintf("%s, %s", cli.Things(q.Messages, "message"), cli.Size(q.Bytes))
	if q.DiskBytes > 0 {
		s += fmt.Sprintf(", of which %s on disk", cli.Size(q.DiskBytes))
	}
	if q.Oldest != nil {
		s += fmt.Sprintf("; the oldest for %s", ago(st, q.Oldest))
	}
	return s
}

// counted is "12 expired, 3 queue full", the greatest first.
func counted(of map[string]uint64) string {
	names := slices.Sorted(maps.Keys(of))
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case of[a] > of[b]:
			return -1
		case of[a] < of[b]:
			return 1
		}
		return 0
	})
	for i, name := range names {
		names[i] = cli.Count(of[name]) + " " + name
	}
	return strings.Join(names, ", ")
}

func storeLines(st *admin.Status) [][2]string {
	s := st.Store
	sync := "nothing written yet"
	if s.Sync.Count > 0 {
		us := func(n int64) string { return cli.Span(time.Duration(n) * time.Microsecond) }
		sync = fmt.Sprintf("p50 ≤ %s, p99 ≤ %s, max ≤ %s, of %s", us(s.Sync.P50), us(s.Sync.P99), us(s.Sync.Max), cli.Count(s.Sync.Count))
	}
	checkpoint := "none yet"
	if s.Checkpoint != nil {
		checkpoint = ago(st, s.Checkpoint) + " ago"
	}
	free := "how much is free is unknown"
	if s.FreeBytes >= 0 {
		free = cli.Size(s.FreeBytes) + " free"
	}
	name := "fsync"
	if st.Durability == "os" {
		name = "write"
	}
	return [][2]string{
		{"journal", fmt.Sprintf("%s, %s", cli.Things(s.JournalRecords, "record"), cli.Size(s.JournalBytes))},
		{name, sync},
		{"checkpoint", checkpoint},
		{"disk", fmt.Sprintf("%s journal + %s key-value store; %s", cli.Size(s.JournalBytes), cli.Size(s.KVBytes), free)},
		{"written", fmt.Sprintf("%s since the start", cli.Size(s.WrittenBytes))},
	}
}

// queues lists the biggest queues, numbers to the right.
func queues(b *strings.Builder, st *admin.Status) {
	if len(st.Biggest) == 0 {
		return
	}
	b.WriteString("\nbiggest queues:\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "messages\tsize\ton disk\tin flight\toldest\tconnected\t  client\n")
	for _, q := range st.Biggest {
		oldest, connected := "-", "no"
		if q.Oldest != nil {
			oldest = ago(st, q.Oldest)
		}
		if q.Online {
			connected = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t  %s\n", cli.Count(q.Messages), cli.Size(q.Bytes), cli.Size(q.DiskBytes),
			cli.Count(q.InFlight), oldest, connected, cli.Printable(q.Client))
	}
	w.Flush() // a strings.Builder takes everything
}
