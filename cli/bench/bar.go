package bench

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"fairlead/cli"
)

// bar shows on a terminal how far the bench is. Elsewhere it is silent.
type bar struct {
	w        io.Writer // nil: no terminal
	name     string
	duration time.Duration
	stop     chan struct{}
	once     sync.Once
	ended    sync.WaitGroup
}

func newBar(env *cli.Env, name string, d time.Duration) *bar {
	b := &bar{name: name, duration: d, stop: make(chan struct{})}
	if cli.Terminal(env.Stderr) {
		b.w = env.Stderr
	}
	return b
}

// run draws until clear is called; count says how much has been done.
func (b *bar) run(count func() uint64) {
	if b.w == nil {
		return
	}
	b.ended.Go(func() { // ends with clear
		begin, before := time.Now(), uint64(0)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-b.stop:
				return
			case now := <-tick.C:
				n := count()
				part := min(1, now.Sub(begin).Seconds()/b.duration.Seconds())
				done := int(part * 30)
				fmt.Fprintf(b.w, "\r%s [%s%s] %3.0f %%  %d/s   ", b.name, strings.Repeat("#", done), strings.Repeat(".", 30-done), part*100, (n-before)*5)
				before = n
			}
		}
	})
}

// clear ends the bar and wipes it away.
func (b *bar) clear() {
	b.once.Do(func() {
		close(b.stop)
		b.ended.Wait()
		if b.w != nil {
			fmt.Fprint(b.w, "\r\x1b[K")
		}
	})
}
