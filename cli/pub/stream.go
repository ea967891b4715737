package pub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"fairlead/cli"
	"fairlead/client"
	"fairlead/mqtt/packet"
)

// stream sends a message for each line, c.window at a time. A refused line is
// reported and the next one goes on.
func (c *command) stream(ctx context.Context, env *cli.Env, conn *client.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan line)
	// The reader ends with the input or with ctx, but for a Read that a
	// terminal does not answer: that one ends with the process.
	go readLines(ctx, env.Stdin, lines)
	o := outstanding{stderr: env.Stderr, max: c.window}
	for number := 1; ; number++ {
		in, ok := next(ctx, lines)
		if !ok || in.err != nil {
			return errors.Join(o.settle(ctx), in.err)
		}
		d, err := conn.PublishAsync(ctx, c.application(in.text))
		if err != nil && !refusal(err) {
			return errors.Join(o.settle(ctx), fmt.Errorf("line %d: %w", number, err))
		}
		if err != nil {
			o.refuse(number, err)
			continue
		}
		if err := o.add(ctx, number, d); err != nil {
			return err
		}
	}
}

// A line is one line of the input, or the error that ended it.
type line struct {
	text []byte
	err  error
}

func next(ctx context.Context, lines <-chan line) (line, bool) {
	select {
	case in, ok := <-lines:
		return in, ok
	case <-ctx.Done():
		return line{err: cli.TimedOut(ctx)}, true
	}
}

// readLines sends each line without its end, and closes lines at the end of the
// input. The last line need not have an end.
func readLines(ctx context.Context, r io.Reader, lines chan<- line) {
	defer close(lines)
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), payloadBytesMax)
	send := func(in line) bool {
		select {
		case lines <- in:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for scanner.Scan() {
		if !send(line{text: append([]byte(nil), scanner.Bytes()...)}) {
			return
		}
	}
	if err := scanner.Err(); err != nil {
		send(line{err: fmt.Errorf("read standard input: %w", err)})
	}
}

// refusal reports whether err is about one message, so that the next may go.
func refusal(err error) bool {
	var limit *client.LimitError
	if errors.As(err, &limit) {
		return true
	}
	var no *client.ReasonError
	return errors.As(err, &no) && (no.Packet == packet.PUBACK || no.Packet == packet.PUBREC || no.Packet == packet.PUBCOMP)
}

// outstanding are the lines that the broker has not acknowledged, oldest first.
type outstanding struct {
	stderr  io.Writer
	max     int
	queue   []sentLine
	refused int
}

type sentLine struct {
	number   int
	delivery *client.Delivery
}

// add notes a line, and waits for the oldest one if there are too many.
func (o *outstanding) add(ctx context.Context, number int, d *client.Delivery) error {
	o.queue = append(o.queue, sentLine{number, d})
	for len(o.queue) > 0 {
		if len(o.queue) < o.max && !isDone(o.queue[0].delivery) {
			return nil
		}
		if err := o.awaitOldest(ctx); err != nil {
			return err
		}
	}
	return nil
}

func isDone(d *client.Delivery) bool {
	select {
	case <-d.Done():
		return true
	default:
		return false
	}
}

func (o *outstanding) awaitOldest(ctx context.Context) error {
	first := o.queue[0]
	o.queue = o.queue[1:]
	err := first.delivery.Wait(ctx)
	switch {
	case err == nil:
		return nil
	case refusal(err):
		o.refuse(first.number, err)
		return nil
	}
	return fmt.Errorf("line %d and %d after it: %w", first.number, len(o.queue), cli.TimedOutOr(ctx, err))
}

func (o *outstanding) refuse(number int, err error) {
	o.refused++
	fmt.Fprintf(o.stderr, "fairlead pub: line %d: %v\n", number, err)
}

// settle waits for all that is outstanding and returns what went wrong.
func (o *outstanding) settle(ctx context.Context) error {
	for len(o.queue) > 0 {
		if err := o.awaitOldest(ctx); err != nil {
			return err
		}
	}
	if o.refused > 0 {
		return fmt.Errorf("%d lines were refused", o.refused)
	}
	return nil
}
