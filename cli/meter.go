package cli

import (
	"fmt"
	"io"
	"time"
)

// meterEvery is how often a Meter draws.
const meterEvery = 100 * time.Millisecond

// Meter shows on a terminal how far something is. Elsewhere it is silent.
type Meter struct {
	w     io.Writer // nil: no terminal
	drawn time.Time
}

// NewMeter returns a Meter on standard error.
func NewMeter(env *Env) *Meter {
	if !Terminal(env.Stderr) {
		return &Meter{}
	}
	return &Meter{w: env.Stderr}
}

// Show draws what text returns, if it is time to.
func (m *Meter) Show(text func() string) {
	if m.w == nil || time.Since(m.drawn) < meterEvery {
		return
	}
	m.drawn = time.Now()
	fmt.Fprintf(m.w, "\r\x1b[K%s", text())
}

// Clear wipes away what was drawn.
func (m *Meter) Clear() {
	if m.w != nil && !m.drawn.IsZero() {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}
