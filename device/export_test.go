package device

// What the tests need of the inside.
var (
	Decode  = decode
	Encode  = encode
	Reserve = reserve
)

const (
	ChangesMax = changesMax
	GoneTTL    = goneTTL
)

// Publish is a change that did not happen.
func (r *Registry) Publish(c Change) { r.feeds.publish(c) }
