package crash

import (
	"context"
	"sync"
)

// gate is open while the broker takes connections.
type gate struct {
	mu   sync.Mutex // guards open
	open chan struct{}
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

// set opens or shuts the gate.
func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
	default:
		if open {
			close(g.open)
		}
	}
}

// wait returns true as soon as the gate is open, and false when ctx ends.
func (g *gate) wait(ctx context.Context) bool {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
