package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"fairlead/mqtt/topic"
)

// Blast is what somebody with the credentials of one member could do.
type Blast struct {
	Exposure
	Writes      []string // topic filters that the thief may publish to
	Reads       []string // topic filters that it may subscribe to
	WriteDenies []string // what is denied of Writes
	ReadDenies  []string // what is denied of Reads
	Retained    []string // topic names of retained messages that it may read
	Victims     []Victim // worst first
}

// Exposure is how many others a thief of one member reaches. A topic that is the
// thief's own, because the rule that allows it has the thief's name in its filter,
// counts only for those whose own it is too: that a panel listens to a sensor is no
// danger that comes from the sensor's rights.
type Exposure struct {
	Member   int // its index
	Commands int // other devices that would receive what it publishes, if they subscribe to all they may
	Data     int // other devices of which it can read what they may publish
	Live     int // other connected clients whose subscriptions it can publish to, by its own topics too
}

// Score makes exposures comparable: twice the devices that can be commanded, and
// those that can be read. A device with only its own topics has 0.
func (e Exposure) Score() int { return 2*e.Commands + e.Data }

// Victim is a member that a thief reaches. The lists hold topic filters, at most
// [SamplesMax] each.
type Victim struct {
	Member   int
	Live     []string // its subscriptions that the thief reaches now
	Commands []string // what the thief may publish and it may subscribe to
	Data     []string // what it may publish and the thief may subscribe to
}

// SamplesMax is how many topic filters of a kind a [Victim] lists.
const SamplesMax = 8

// weight orders victims: live clients, then devices that obey, then those that are
// only overheard.
func (v *Victim) weight() (w int) {
	for i, list := range [][]string{v.Data, v.Commands, v.Live} {
		if len(list) > 0 {
			w += 1 << i
		}
	}
	return w
}

// BlastRadius says what somebody with the credentials of the i-th member could do.
func (f *Fleet) BlastRadius(i int) *Blast {
	reach := &f.reaches[i]
	b := &Blast{Exposure: Exposure{Member: i}, Writes: reach.writes, Reads: reach.reads,
		WriteDenies: reach.writeDenies, ReadDenies: reach.readDenies}
	victims := make(map[int32]*Victim)
	hit := func(list func(*Victim) *[]string) func(met, string) {
		return func(e met, shared string) {
			v := victims[e.member]
			if v == nil {
				v = &Victim{Member: int(e.member)}
				victims[e.member] = v
			}
			if to := list(v); len(*to) < SamplesMax && !slices.Contains(*to, shared) {
				*to = append(*to, shared)
			}
		}
	}
	for _, k := range f.kinds(i) {
		for _, filter := range k.filters {
			f.meet(&k, filter, k.denies, i, hit(k.list))
		}
	}
	for _, v := range victims {
		b.Live += min(1, len(v.Live))
		b.Commands += min(1, len(v.Commands))
		b.Data += min(1, len(v.Data))
		slices.Sort(v.Live)
		slices.Sort(v.Commands)
		slices.Sort(v.Data)
		b.Victims = append(b.Victims, *v)
	}
	slices.SortFunc(b.Victims, func(v, w Victim) int {
		return cmp.Or(w.weight()-v.weight(), cmp.Compare(f.members[v.Member].Principal.Name(), f.members[w.Member].Principal.Name()), v.Member-w.Member)
	})
	rights := f.set.For(f.members[i].Principal)
	for _, name := range f.retained {
		if rights.Receive(name) {
			b.Retained = append(b.Retained, name)
		}
	}
	return b
}

// kind is one way to reach others: what a thief may do, and where others are met.
type kind struct {
	name    string
	filters []string
	denies  []string
	own     []string // of filters; empty where own topics count like any
	list    func(*Victim) *[]string
	index   *meeting
	victim  func(member int32) (filters, denies []string)
}

func (f *Fleet) kinds(i int) []kind {
	r := &f.reaches[i]
	return []kind{
		{"live", r.writes, r.writeDenies, nil, func(v *Victim) *[]string { return &v.Live }, &f.live,
			func(int32) (filters, denies []string) { return nil, nil }},
		{"commands", r.writes, r.writeDenies, r.own, func(v *Victim) *[]string { return &v.Commands }, &f.reads,
			func(m int32) (filters, denies []string) { return f.reaches[m].reads, f.reaches[m].readDenies }},
		{"data", r.reads, r.readDenies, r.own, func(v *Victim) *[]string { return &v.Data }, &f.writes,
			func(m int32) (filters, denies []string) { return f.reaches[m].writes, f.reaches[m].writeDenies }},
	}
}

// meet yields the filters of others that a filter of the thief shares topics with,
// unless one deny rule covers all they share.
func (f *Fleet) meet(k *kind, filter string, denies []string, thief int, yield func(e met, shared string)) {
	take := func(e met, shared string) {
		_, victimDenies := k.victim(e.member)
		if int(e.member) != thief && !covered(shared, denies) && !covered(shared, victimDenies) {
			yield(e, shared)
		}
	}
	if covered(filter, k.own) {
		f.meetOwn(k, filter, take)
		return
	}
	k.index.find(filter, func(e met) { take(e, common(filter, e.filter)) })
}

// meetOwn is meet for a filter that is the thief's own: it counts for those only
// whose own it meets. They are few, and found first.
func (f *Fleet) meetOwn(k *kind, filter string, take func(e met, shared string)) {
	var owners []int32
	f.owns.find(filter, func(e met) { owners = append(owners, e.member) })
	slices.Sort(owners)
	for _, m := range slices.Compact(owners) {
		theirs, _ := k.victim(m)
		for _, other := range theirs {
			if !topic.Overlap(filter, other) {
				continue
			}
			shared := common(filter, other)
			if slices.ContainsFunc(f.reaches[m].own, func(o string) bool { return topic.Overlap(o, shared) }) {
				take(met{other, m}, shared)
			}
		}
	}
}

// Rank returns the exposure of every member, worst first: by [Exposure.Score],
// then by the live clients that it reaches, then by name.
func (f *Fleet) Rank() []Exposure {
	ranked := make([]Exposure, 0, len(f.members))
	for i := range f.members {
		e := Exposure{Member: i}
		for _, k := range f.kinds(i) {
			n := f.count(&k, i)
			switch k.name {
			case "live":
				e.Live = n
			case "commands":
				e.Commands = n
			case "data":
				e.Data = n
			}
		}
		ranked = append(ranked, e)
	}
	slices.SortFunc(ranked, func(a, b Exposure) int {
		return cmp.Or(b.Score()-a.Score(), b.Live-a.Live, cmp.Compare(f.members[a.Member].Principal.Name(), f.members[b.Member].Principal.Name()))
	})
	return ranked
}

// hits are members that a filter reaches, the thief perhaps among them.
type hits struct {
	members []int32 // sorted
	set     []uint64
}

// wideMin is from how many members on a result is kept for later questions: many
// members of a fleet share their wide filters.
const wideMin = 64

// knownMax is how many results of each sort are kept; what comes after is found
// again each time. In a fleet of 100,000 one takes up to 400 KB.
const knownMax = 1000

// count counts the members that a thief reaches in one way. Results of wide
// filters, and what they reach together, are found once for all thieves that have
// them, so that a fleet of n is ranked in far less than n² steps.
func (f *Fleet) count(k *kind, thief int) int {
	var wide, key []string
	var few []int32
	for _, filter := range k.filters {
		id, h := f.reached(k, filter)
		if len(h.members) < wideMin {
			few = append(few, h.members...)
		} else {
			wide, key = append(wide, filter), append(key, id)
		}
	}
	all := f.together(k, wide, strings.Join(key, "\x00"))
	n := len(all.members)
	if _, itself := slices.BinarySearch(all.members, int32(thief)); itself {
		n--
	}
	slices.Sort(few)
	for _, m := range slices.Compact(few) {
		if int(m) != thief && !all.has(m) {
			n++
		}
	}
	return n
}

// reached finds the members that a filter reaches, and what the result depends on.
func (f *Fleet) reached(k *kind, filter string) (id string, h *hits) {
	denies := slices.DeleteFunc(slices.Clone(k.denies), func(d string) bool { return !topic.Overlap(d, filter) })
	id = fmt.Sprintf("%s %v %q %q", k.name, covered(filter, k.own), filter, denies)
	if h := f.known[id]; h != nil {
		return id, h
	}
	h = &hits{}
	f.meet(k, filter, denies, -1, func(e met, _ string) { h.members = append(h.members, e.member) })
	h.sort(len(f.members))
	if len(h.members) >= wideMin && len(f.known) < knownMax {
		f.known[id] = h
	}
	return id, h
}

// together unites the members that wide filters reach.
func (f *Fleet) together(k *kind, wide []string, id string) *hits {
	if len(wide) == 0 {
		return &hits{}
	}
	if h := f.union[id]; h != nil {
		return h
	}
	h := &hits{}
	for _, filter := range wide {
		_, one := f.reached(k, filter)
		h.members = append(h.members, one.members...)
	}
	h.sort(len(f.members))
	if len(f.union) < knownMax {
		f.union[id] = h
	}
	return h
}

func (h *hits) sort(members int) {
	slices.Sort(h.members)
	h.members = slices.Clip(slices.Compact(h.members))
	if len(h.members) < wideMin {
		return
	}
	h.set = make([]uint64, members/64+1)
	for _, m := range h.members {
		h.set[m/64] |= 1 << (m % 64)
	}
}

func (h *hits) has(m int32) bool { return h.set != nil && h.set[m/64]>>(m%64)&1 == 1 }
