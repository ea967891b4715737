package crash

import (
	"errors"
	"io"
	"net"
	"sync"
)

// pretender stands between the clients and a broker that is never killed. Its
// death looks to the clients like the broker's, and what was under way is lost;
// but the broker forgets nothing. So the harness can be held against a broker
// that keeps its promises, whatever the real one does: what it reports then is
// its own mistake.
type pretender struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards what follows
	conns []net.Conn
	dead  bool
}

// pretend listens at one address and forwards to another.
func pretend(at, to string) (*pretender, error) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	p := &pretender{listener: l, to: to}
	p.wg.Go(p.accept) // ends with the listener
	return p, nil
}

func (p *pretender) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		if !p.keep(client, broker) {
			return
		}
		p.wg.Go(func() { forward(client, broker) }) // both end with either connection
		p.wg.Go(func() { forward(broker, client) })
	}
}

// keep remembers two connections, or closes them if all is over.
func (p *pretender) keep(client, broker net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		client.Close()
		broker.Close()
		return false
	}
	p.conns = append(p.conns, client, broker)
	return true
}

// forward copies until the source ends, and then ends both.
func forward(to, from net.Conn) {
	io.Copy(to, from)
	to.Close()
	from.Close()
}

// die cuts all connections.
func (p *pretender) die() error {
	p.mu.Lock()
	p.dead = true
	conns := p.conns
	p.mu.Unlock()
	err := p.listener.Close()
	for _, c := range conns {
		if cerr := c.Close(); cerr != nil && !errors.Is(cerr, net.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	p.wg.Wait()
	return err
}
