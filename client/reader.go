package client

import (
	"errors"
	"fmt"
	"io"

	"fairlead/mqtt/packet"
)

// reader waits for packets from a broker.
type reader struct {
	packet.Reader
	src io.Reader
}

func newReader(src io.Reader, o *Options) *reader {
	r := &reader{src: src}
	r.Version = o.Version
	r.MaxBytes = o.PacketBytesMax
	return r
}

// Next returns the next packet, as soon as all of its bytes have come.
func (r *reader) Next() (packet.Packet, error) {
	for {
		p, err := r.Reader.Next()
		if !errors.Is(err, packet.ErrMore) {
			return p, err
		}
		if n, err := r.Fill(r.src); n == 0 && err != nil {
			return nil, err
		}
	}
}

// noAnswer says why there was no CONNACK.
func noAnswer(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the broker closed the connection without an answer to CONNECT")
	}
	return fmt.Errorf("wait for the answer to CONNECT: %w", err)
}
