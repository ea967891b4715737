package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"fairlead/mqtt/packet"
)

// TestScaleSmall is the group scale with numbers that take seconds: kill -9 and all.
func TestScaleSmall(t *testing.T) {
	page := smallRun(t, "-group", "scale", "-n", "2000")
	for _, row := range []string{
		"### 2000 messages queued for one absent client\n", "### 2000 absent clients with 10 messages each\n", "### 2000 retained messages\n",
	} {
		if !strings.Contains(page, row) {
			t.Errorf("the page has no %q", row)
		}
	}
	for row, times := range map[string]int{
		"| lost | 0 | ≤ 0 |": 3, "| doubled | 0 |  |": 3, "| not to be explained | 0 | ≤ 0 |": 3, "| out of order | 0 | ≤ 0 |": 2,
		"from exec to the first CONNACK | ": 3, "did not come to its end": 0,
	} {
		if got := strings.Count(page, row); got != times {
			t.Errorf("the page has %q %d times, want %d", row, got, times)
		}
	}
	// So few messages may be there before the other pair has sent one: p50, p99 and max.
	if missing := strings.Count(page, "| – |"); missing != 3*strings.Count(page, "| messages of the pair | 0 |") {
		t.Errorf("%d figures are missing", missing)
	}
	if t.Failed() {
		t.Log(page)
	}
}

func payloadOf(i int) []byte {
	b := make([]byte, payloadBytes)
	b[6], b[7] = byte(i>>8), byte(i)
	return b
}

func TestTally(t *testing.T) {
	found := newTally(100)
	for _, i := range []int{0, 4, 1, 8, 4, 5, 2, 12, 8, 3, 100_000, 16, 9, 11, 7} {
		if i == 100_000 {
			found.add([]byte("something else"))
			continue
		}
		found.add(payloadOf(i))
	}
	found.add(payloadOf(1000)) // was never sent
	if found.n != 12 || found.duplicates != 2 || found.disordered != 1 || found.unexplained != 2 {
		t.Errorf("%d different, %d doubled, %d out of order, %d strange, want 12, 2, 1, 2", found.n, found.duplicates, found.disordered, found.unexplained)
	}
	found.foreign(func(i int) bool { return i%4 == 1 })
	if found.n != 9 || found.unexplained != 5 {
		t.Errorf("%d are ours and %d not, want 9 and 5", found.n, found.unexplained)
	}
}

func TestDisorder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	found := newTally(1000)
	for _, first := range random.Perm(publishers) { // publishers may overtake each other
		for i := first; i < 1000; i += publishers {
			found.add(payloadOf(i))
		}
	}
	if found.n != 1000 || found.disordered != 0 {
		t.Errorf("%d messages, %d out of order, want 1000, 0", found.n, found.disordered)
	}
}

func TestNumber(t *testing.T) {
	if i, ok := number(payloadOf(777)); !ok || i != 777 {
		t.Errorf("number = %d, %v, want 777", i, ok)
	}
	far := payloadOf(1)
	far[0] = 0xFF
	for _, bad := range [][]byte{nil, {1, 2}, far} {
		if i, ok := number(bad); ok {
			t.Errorf("number(%x) = %d, want none", bad, i)
		}
	}
}

// TestScaleFigures: every row says what it is.
func TestScaleFigures(t *testing.T) {
	for _, s := range scaleScenarios {
		for _, f := range scaleTables()[s.name] {
			if f.key == "" || f.name == "" {
				t.Errorf("%s: a row without a name: %+v", s.name, f)
			}
		}
	}
	f := scaleFigure{key: "x", name: "memory", unit: "MiB", divide: inMiB, must: 5, bound: true}
	if got, want := f.line(result{"x": 2.5 * inMiB}), "| memory | 2.50 MiB | ≤ 5 MiB |\n"; got != want {
		t.Errorf("line %q, want %q", got, want)
	}
	if got := f.line(result{}); !strings.Contains(got, "| – |") {
		t.Errorf("line without a figure: %q", got)
	}
}

func TestSubscriptionIsValid(t *testing.T) {
	if _, err := packet.Append(nil, 5, subscription(fmt.Sprintf("absent/%d", 1))); err != nil {
		t.Error(err)
	}
}
