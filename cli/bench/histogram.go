package bench

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that grow with them: 32 for each power
// of two, so a quantile is at most 3 % off.
type histogram struct {
	counts [64 * sub]uint64
	n      uint64
	sum    time.Duration
	max    time.Duration
}

const sub = 32

func bucket(d time.Duration) int {
	u := uint64(max(d, 0))
	if u < sub {
		return int(u)
	}
	shift := bits.Len64(u) - 6 // sub is 2^5, and the leading bit is not counted
	return (shift+1)*sub + int(u>>shift) - sub
}

// middle is a duration of the bucket.
func middle(i int) time.Duration {
	if i < sub {
		return time.Duration(i)
	}
	shift := i/sub - 1
	return time.Duration(uint64(i%sub+sub)<<shift + uint64(1)<<shift/2)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// quantile is the duration below which the share q lies.
func (h *histogram) quantile(q float64) time.Duration {
	want := uint64(q * float64(h.n))
	for i, n := range h.counts {
		if want < n {
			return min(middle(i), h.max)
		}
		want -= n
	}
	return h.max
}

func (h *histogram) quantiles() *quantiles {
	if h.n == 0 {
		return nil
	}
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return &quantiles{
		P50: us(h.quantile(0.5)), Mean: us(h.sum) / float64(h.n), P90: us(h.quantile(0.9)),
		P99: us(h.quantile(0.99)), P999: us(h.quantile(0.999)), Max: us(h.max),
	}
}
