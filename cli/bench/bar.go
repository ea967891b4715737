package bench

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"fairlead/cli"
)

const (
	barEvery = 200 * time.Millisecond
	barWidth = 30
)

// bar shows on a terminal how far the bench is. Elsewhere it is silent.
type bar struct {
	w     io.Writer // nil: no terminal
	name  string
	part  func(since time.Duration) float64 // how much of it is done; 1: all
	count func() uint64                     // what has been done; nil: nothing is counted
}

func (l *load) newBar(name string, part func(time.Duration) float64, count func() uint64) *bar {
	b := &bar{name: name, part: part, count: count}
	if cli.Terminal(l.env.Stderr) {
		b.w = l.env.Stderr
	}
	return b
}

// run draws until the function that it returns is called, which wipes the bar
// away.
func (b *bar) run() (clear func()) {
	if b.w == nil {
		return func() {}
	}
	stop := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() { b.draw(stop) }) // ends with stop
	return func() {
		close(stop)
		drawing.Wait()
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}

func (b *bar) draw(stop <-chan struct{}) {
	begin := time.Now()
	var before uint64
	tick := time.NewTicker(barEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			var n uint64
			if b.count != nil {
				n = b.count()
			}
			fmt.Fprint(b.w, "\r\x1b[K", b.line(b.part(now.Sub(begin)), n-before))
			before = n
		}
	}
}

// line is the bar when part of the work is done, and more of it since the last
// one.
func (b *bar) line(part float64, more uint64) string {
	part = max(0, min(1, part))
	done := int(part * barWidth)
	s := fmt.Sprintf("%s [%s%s] %3.0f %%", b.name, strings.Repeat("#", done), strings.Repeat(".", barWidth-done), part*100)
	if b.count != nil {
		s += fmt.Sprintf("  %d/s", more*uint64(time.Second/barEvery))
	}
	return s
}
