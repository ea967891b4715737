package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestHistogram compares quantiles with those of the sorted values.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 100_000 {
		d := time.Duration(math.Exp(random.Float64() * 22))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := h.quantile(q); math.Abs(float64(got-want)) > 0.035*float64(want)+1 {
			t.Errorf("quantile(%v) = %v, want %v within 3.5 %%", q, got, want)
		}
	}
	if last := bucket(math.MaxInt64); last >= len(h.counts) {
		t.Errorf("the longest duration has bucket %d of %d", last, len(h.counts))
	}
}

// TestBook notes messages out of order, twice, and with gaps.
func TestBook(t *testing.T) {
	var b book
	for _, step := range []struct {
		seq         uint32
		fresh, late bool
	}{{0, true, false}, {1, true, false}, {1, false, true}, {5, true, false}, {3, true, true}, {3, false, true}, {6, true, false},
		{recall + 100, true, false}, {recall + 99, true, true}, {recall + 99, false, true}, {2, true, true}} {
		if fresh, late := b.note(step.seq); fresh != step.fresh || late != step.late {
			t.Errorf("note(%d) = %v, %v, want %v, %v", step.seq, fresh, late, step.fresh, step.late)
		}
	}
}
