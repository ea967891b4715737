package store

import (
	"fmt"
	"io"
	"strings"

	"fairlead/cli"
	"fairlead/store/pebble"
)

// report is what was found, for scripts and for people.
type report struct {
	Data   string  `json:"data"`
	First  uint64  `json:"first_record"`
	Next   uint64  `json:"next_record"`
	Bytes  int64   `json:"journal_bytes"`
	Torn   int64   `json:"torn_bytes"`
	Damage *damage `json:"damage,omitempty"`
	Cut    *damage `json:"cut,omitempty"`

	Keys     uint64    `json:"keys"`
	KVError  string    `json:"kv_error,omitempty"`
	Contents *contents `json:"contents,omitempty"` // nil: could not be looked at

	Repaired bool     `json:"repaired"`
	Moved    []string `json:"moved,omitempty"`
	Aside    string   `json:"aside,omitempty"`
}

// damage is a place in the journal that can't be read.
type damage struct {
	File     string `json:"file"`
	Offset   int64  `json:"offset"`
	What     string `json:"what"`
	From     uint64 `json:"first_lost"`
	To       uint64 `json:"last_lost"`
	Readable uint64 `json:"intact_behind"`
}

func newReport(dir string, r pebble.Report) *report {
	j := &report{
		Data: dir, First: uint64(r.First), Next: uint64(r.Next), Bytes: r.Bytes, Torn: r.TornBytes,
		Damage: newDamage(r.Damage), Cut: newDamage(r.Cut), Keys: r.Keys, Moved: r.Moved, Aside: r.Aside,
	}
	if r.KVErr != nil {
		j.KVError = r.KVErr.Error()
	}
	return j
}

func newDamage(d *pebble.Damage) *damage {
	if d == nil {
		return nil
	}
	return &damage{File: d.File, Offset: d.Offset, What: d.What, From: uint64(d.From), To: uint64(d.To), Readable: d.Readable}
}

// sound reports whether a broker could start and read everything.
func (r *report) sound() bool {
	return r.Damage == nil && r.KVError == "" && (r.Contents == nil || len(r.Contents.Bad) == 0)
}

func (r *report) print(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	switch {
	case r.Next > r.First:
		line("journal: %s (%d to %d), %s", cli.Things(r.Next-r.First, "record"), r.First, r.Next-1, cli.Size(r.Bytes))
	default:
		line("journal: 0 records")
	}
	if r.Torn > 0 {
		line("journal: a crash tore what was being written at its end, %s; it was never acknowledged and does not count", cli.Size(r.Torn))
	}
	r.printDamage(line)
	switch {
	case r.KVError != "":
		line("key-value store: DAMAGED: %s", r.KVError)
		line("  It can't be repaired: restore a backup into another directory.")
	case r.Keys > 0:
		line("key-value store: %s", cli.Things(r.Keys, "key"))
	}
	if r.Contents != nil {
		r.Contents.print(line)
	}
	for _, name := range r.Moved {
		line("moved aside: %s", name)
	}
	if r.sound() {
		line("all is well: everything can be read")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) printDamage(line func(string, ...any)) {
	if c := r.Cut; c != nil {
		line("journal: the power went while it was written without fsync: records %d to %d are lost (%s, offset %d)", c.From, c.To, c.File, c.Offset)
	}
	d := r.Damage
	if d == nil {
		return
	}
	line("journal: DAMAGED: %s at offset %d: %s", d.File, d.Offset, d.What)
	lost := "are lost"
	if !r.Repaired {
		lost = "can't be reached"
	}
	line("  Records %d to %d %s, %s of them stand intact behind the damage.", d.From, d.To, lost, cli.Count(d.Readable))
	line("  What was acknowledged in them is gone, unless the latest checkpoint has it.")
	if !r.Repaired {
		line("  Go on without them: fairlead store repair --data %s", r.Data)
		line("  Or restore a backup: fairlead restore FILE --data DIR, into another directory.")
		return
	}
	line("  The journal can be read again, and the broker starts.")
}

func (c *contents) print(line func(string, ...any)) {
	line("holds: %s, %s of queues, %s, %s", cli.Things(c.Sessions, "session"), cli.Things(c.Chunks, "chunk"),
		cli.Things(c.Groups, "shared subscription"), cli.Things(c.Retained, "retained message"))
	line("holds: %s in %s of the journal", cli.Things(c.Ops, "op"), cli.Things(c.Records, "record"))
	for _, b := range c.Bad {
		line("UNREADABLE: %s: %s", b.Where, b.What)
	}
	if c.BadMore > 0 {
		line("UNREADABLE: %s more", cli.Count(c.BadMore))
	}
	if len(c.Bad) > 0 {
		line("  A repair does not help here: restore a backup.")
	}
}
