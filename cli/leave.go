package cli

import (
	"context"
	"errors"
	"time"

	"fairlead/client"
	"fairlead/mqtt/packet"
)

// errDeadline is the cause of a context that -W has ended.
var errDeadline = errors.New("the time given by -W has passed")

// Deadline bounds ctx by d, and not at all if d is 0. [TimedOut] knows the
// difference between that and an interrupt.
func Deadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, errDeadline)
}

// TimedOut is the error of a command whose ctx has ended before its work: exit
// code 27 after -W, 1 after an interrupt.
func TimedOut(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errDeadline) {
		return &ExitError{Code: ExitTimeout, Err: errDeadline}
	}
	return errors.New("interrupted")
}

// TimedOutOr is TimedOut if ctx has ended, and err otherwise.
func TimedOutOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return TimedOut(ctx)
	}
	return err
}

// Part disconnects, within d even if ctx has ended. p may be nil.
func Part(ctx context.Context, c *client.Client, p *packet.Properties, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	defer cancel()
	return c.DisconnectWith(ctx, &packet.Disconnect{Properties: p})
}
