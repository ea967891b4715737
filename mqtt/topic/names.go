package topic

import (
	"math"
	"strings"
)

// Names maps Topic Names to values and finds those that a Topic Filter matches:
// the Retained Messages that a new subscription receives, the cached routes that
// it touches. The zero Names is empty and ready to use.
//
// Topic Names must be valid; Names keeps the strings it is given. A name costs
// about 200 bytes beside its text.
type Names[V any] struct {
	at   map[string]*node[named[V]] // for Get: one look-up, whatever the levels
	tree tree[named[V]]             // for Match
}

// named is what a node of the tree carries: a whole Topic Name and its value. A
// node that is only on the way to others has an empty name, which is not a Topic
// Name [MQTT-4.7.3-1].
type named[V any] struct {
	name string
	v    V
}

func (n named[V]) empty() bool { return n.name == "" }

// Len returns the number of names.
func (n *Names[V]) Len() int { return len(n.at) }

// Get returns the value of the Topic Name.
func (n *Names[V]) Get(name string) (V, bool) {
	if at, ok := n.at[name]; ok {
		return at.val.v, true
	}
	var none V
	return none, false
}

// GetBytes is [Names.Get] for a Topic Name that is still in a read buffer. It
// does not allocate.
func (n *Names[V]) GetBytes(name []byte) (V, bool) {
	if at, ok := n.at[string(name)]; ok {
		return at.val.v, true
	}
	var none V
	return none, false
}

// Set gives the Topic Name the value v and returns the value it had.
func (n *Names[V]) Set(name string, v V) (old V, replaced bool) {
	if at, ok := n.at[name]; ok {
		old, at.val.v = at.val.v, v
		return old, true
	}
	if name == "" {
		return old, false // not a Topic Name; see named
	}
	if n.at == nil {
		n.at = make(map[string]*node[named[V]])
	}
	at := n.tree.insert(name)
	at.val = named[V]{name, v}
	n.at[name] = at
	return old, false
}

// Delete removes the Topic Name and returns the value it had.
func (n *Names[V]) Delete(name string) (old V, ok bool) {
	if _, ok := n.at[name]; !ok {
		return old, false
	}
	at := n.tree.find(name)
	old, at.node.val = at.node.val.v, named[V]{}
	at.prune()
	delete(n.at, name)
	if len(n.at) == 0 {
		n.at = nil // a map that has grown does not shrink
	}
	return old, true
}

// Match calls yield for each Topic Name that the Topic Filter pattern, without
// $share/<ShareName>/, matches, until yield returns false. The order is the same
// for equal histories of Set and Delete. Names must not change meanwhile.
//
// The cost is that of the part of the tree that the pattern selects: a level
// that is no wildcard leads to one branch, '+' to all branches of its level, and
// '#' to all below.
func (n *Names[V]) Match(pattern string, yield func(name string, v V) bool) {
	n.MatchWithin(pattern, math.MaxInt, yield)
}

// MatchWithin is [Names.Match] that gives up once it has looked at the given number
// of nodes of the tree, of which there are fewer than two a name. It reports whether
// it has come to its end, or to that of yield.
func (n *Names[V]) MatchWithin(pattern string, nodes int, yield func(name string, v V) bool) bool {
	if !wild(pattern) {
		if v, ok := n.Get(pattern); ok {
			yield(pattern, v)
		}
		return true
	}
	s := search[V]{pattern: pattern, yield: yield, todo: make([]branch[V], 0, 8), most: nodes}
	s.run(&n.tree)
	return s.visited <= s.most
}

// All yields each Topic Name and its value: for name, v := range n.All. The
// order is the same for equal histories of Set and Delete. Names must not change
// meanwhile.
func (n *Names[V]) All(yield func(name string, v V) bool) {
	n.tree.walk(func(_ []byte, at *node[named[V]]) bool {
		return at.val.empty() || yield(at.val.name, at.val.v)
	})
}

// search is a walk for one pattern through the tree, depth first.
type search[V any] struct {
	pattern string
	yield   func(name string, v V) bool
	todo    []branch[V] // at most one for each node on the way down
	visited int         // nodes so far; tests hold the promise of Match against it
	most    int         // how many they may become
}

// branch is a node to visit and perhaps its later siblings. The pattern's level
// for the first level of node begins at byte next; '#' is never passed.
type branch[V any] struct {
	node     *node[named[V]]
	next     int
	siblings bool
}

// run yields what the pattern selects.
func (s *search[V]) run(t *tree[named[V]]) {
	if !beginsWild(s.pattern) {
		if kid := t.root.kid(firstLevel(s.pattern)); kid != nil {
			s.visit(kid)
		}
		return
	}
	for kid := t.root.oldest(); kid != nil; kid = kid.next {
		if !system(kid.label) && !s.visit(kid) { // [MQTT-4.7.2-1]
			return
		}
	}
}

// visit yields the names at and below top, a node right below the root. It
// returns false once yield has.
func (s *search[V]) visit(top *node[named[V]]) bool {
	s.todo = append(s.todo[:0], branch[V]{node: top})
	for len(s.todo) > 0 {
		at, from := s.take()
		if s.visited > s.most {
			return false
		}
		next, ok := s.match(at.label, from)
		if !ok {
			continue
		}
		if !at.val.empty() && s.ends(next) && !s.yield(at.val.name, at.val.v) {
			return false
		}
		s.enter(at, next)
	}
	return true
}

// take takes the next node from the list.
func (s *search[V]) take() (at *node[named[V]], next int) {
	s.visited++
	last := &s.todo[len(s.todo)-1]
	at, next = last.node, last.next
	if last.siblings && at.next != nil {
		last.node = at.next
	} else {
		s.todo = s.todo[:len(s.todo)-1]
	}
	return at, next
}

// match matches the levels of label against the pattern from byte next on. It
// returns where the pattern's next level begins.
func (s *search[V]) match(label string, next int) (int, bool) {
	for more := true; more; {
		if next > len(s.pattern) {
			return 0, false
		}
		want := firstLevel(s.pattern[next:])
		if want == "#" {
			return next, true
		}
		var level string
		level, label, more = strings.Cut(label, "/")
		if want != "+" && want != level {
			return 0, false
		}
		next += len(want) + 1
	}
	return next, true
}

// ends reports whether a name that led to byte next of the pattern matches all
// of it: "a/#" matches "a" too.
func (s *search[V]) ends(next int) bool {
	return next > len(s.pattern) || s.pattern[next:] == "#"
}

// enter puts those nodes right below at on the list that the pattern's level at
// byte next selects.
func (s *search[V]) enter(at *node[named[V]], next int) {
	if next > len(s.pattern) || at.kids == nil {
		return
	}
	level := firstLevel(s.pattern[next:])
	if beginsWild(level) {
		s.todo = append(s.todo, branch[V]{at.kids.first, next, true})
		return
	}
	if kid := at.kid(level); kid != nil {
		s.todo = append(s.todo, branch[V]{kid, next, false})
	}
}
