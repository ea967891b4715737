package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"fairlead/cli"
	"fairlead/journal"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/pebble"
)

// contents is what the values and records of a store hold, as docs/design/journal.md
// says. Bad is what no broker could read.
type contents struct {
	Sessions uint64 `json:"sessions"`
	Chunks   uint64 `json:"chunks"`
	Groups   uint64 `json:"shared_subscriptions"`
	Retained uint64 `json:"retained"`
	Records  uint64 `json:"records"`
	Ops      uint64 `json:"ops"`
	Bad      []bad  `json:"unreadable"`
	BadMore  uint64 `json:"unreadable_not_listed"`
}

// bad is something that can't be read.
type bad struct {
	Where string `json:"where"`
	What  string `json:"what"`
}

const (
	// badMax is how much that can't be read is listed; beyond it is counted.
	badMax = 100
	// pageKeys is how many keys are read at a time; chunks are 64 KiB.
	pageKeys = 256
)

func (c *contents) bad(where string, err error) {
	if len(c.Bad) >= badMax {
		c.BadMore++
		return
	}
	c.Bad = append(c.Bad, bad{where, err.Error()})
}

// readContents opens a store, which the checks of its engine have passed, and reads
// all values and records through package journal.
func readContents(ctx context.Context, dir string, meter *cli.Meter) (c *contents, err error) {
	e, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	c = &contents{Bad: []bad{}}
	half, err := backup.Unfinished(ctx, e)
	if err != nil {
		return c, err
	}
	if half {
		c.bad("the store", backup.ErrUnfinished)
	}
	if err := c.values(ctx, e.KV(), meter); err != nil {
		return c, err
	}
	return c, c.records(ctx, e.Journal(), meter)
}

// values reads the KV. Sessions come first: they say which chunks there must be.
func (c *contents) values(ctx context.Context, kv store.KV, meter *cli.Meter) error {
	queues := make(map[string]chunks)
	for _, part := range []struct {
		prefix string
		count  *uint64
		read   func(name string, value []byte) error
	}{
		{"s/", &c.Sessions, func(name string, value []byte) error {
			s, err := journal.ReadSession(value)
			if err == nil && string(s.Client) != name {
				err = fmt.Errorf("it is of another client, %q", s.Client)
			}
			if err == nil && s.FirstChunk < s.NextChunk {
				queues[name] = chunks{first: s.FirstChunk, next: s.NextChunk}
			}
			return err
		}},
		{"q/", &c.Chunks, func(name string, value []byte) error {
			if _, err := journal.ReadChunk(value); err != nil {
				return err
			}
			found(queues, name)
			return nil
		}},
		{"g/", &c.Groups, func(name string, value []byte) error {
			if strings.Contains(name, "\x00") { // a page of what the group owes
				c.Groups--
				_, err := journal.ReadChunk(value)
				return err
			}
			_, err := journal.ReadSession(value)
			return err
		}},
		{"r/", &c.Retained, func(_ string, value []byte) error { _, err := journal.ReadRetained(value); return err }},
	} {
		err := each(ctx, kv, part.prefix, func(name string, value []byte) {
			*part.count++
			if err := part.read(name, value); err != nil {
				c.bad(fmt.Sprintf("key %q", part.prefix+name), err)
			}
			meter.Show(func() string { return cli.Things(c.Sessions+c.Chunks+c.Groups+c.Retained, "value") })
		})
		if err != nil {
			return err
		}
	}
	for client, q := range queues {
		if missing := q.next - q.first - q.found; missing > 0 {
			c.bad(fmt.Sprintf("the queue of client %q", client), fmt.Errorf("%d of the %d chunks that its session names are missing or can't be read", missing, q.next-q.first))
		}
	}
	return nil
}

// chunks are those that a session names, and how many of them were found.
type chunks struct{ first, next, found uint64 }

// found counts the chunk whose key, without its prefix, is name: client, 0x00, number.
func found(queues map[string]chunks, name string) {
	client, number, ok := strings.Cut(name, "\x00")
	q, named := queues[client]
	if !ok || !named || len(number) != 8 {
		return
	}
	if n := binary.BigEndian.Uint64([]byte(number)); n >= q.first && n < q.next {
		q.found++
		queues[client] = q
	}
}

// each calls f for every key with the prefix.
func each(ctx context.Context, kv store.KV, prefix string, f func(name string, value []byte)) error {
	for after := ""; ; {
		page, err := kv.List(ctx, prefix, after, pageKeys)
		if err != nil {
			return err
		}
		for _, e := range page {
			f(e.Key[len(prefix):], e.Value)
			after = e.Key
		}
		if len(page) < pageKeys {
			return nil
		}
	}
}

// records reads the journal. What is behind a record that can't be read is still read:
// it is not applied.
func (c *contents) records(ctx context.Context, j store.Journal, meter *cli.Meter) error {
	first, next, err := j.Span(ctx, j.Own())
	if err != nil || first == next {
		return err
	}
	for rec, err := range j.Tail(ctx, j.Own(), first) {
		if err != nil {
			return err
		}
		c.Records++
		if err := c.record(rec.Data); err != nil {
			c.bad(fmt.Sprintf("record %d", rec.Pos), err)
		}
		meter.Show(func() string { return cli.Things(c.Records, "record") })
		if rec.Pos == next-1 {
			return nil
		}
	}
	return ctx.Err()
}

func (c *contents) record(data []byte) error {
	_, ops, err := journal.Open(data)
	if err != nil {
		return err
	}
	var op journal.Op
	for {
		ok, err := ops.Next(&op)
		if err != nil || !ok {
			return err
		}
		c.Ops++
	}
}
