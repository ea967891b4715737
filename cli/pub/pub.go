// Package pub is the command "fairlead pub": it publishes messages as
// mosquitto_pub does. Begin with [Command].
package pub

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"fairlead/cli"
	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

const (
	// payloadBytesMax is the largest payload that is read: what MQTT can carry.
	payloadBytesMax = 268_435_455
	// windowDefault is how many QoS 1 and 2 messages of -l are on their way.
	windowDefault = 1000
	// partingTime bounds the leaving: DISCONNECT and the broker's answer to it.
	partingTime = 3 * time.Second
)

// Command is "fairlead pub".
var Command = &cli.Command{
	Name: "pub", Group: "Messages", Summary: "publish messages",
	About: `The flags are mosquitto_pub's. Unlike there, MQTT 5 is the default, because only
it can say why a broker refused a message; -V 311 is the older protocol.

With -q 1 or 2, pub ends when the broker has acknowledged everything. Exit code:
0 done, 1 refused or failed, 2 wrong command line, 27 not done within -W.`,
	Examples: []cli.Example{
		{What: "one message", Line: "fairlead pub -t devices/door-1/state -m open"},
		{What: "acknowledged and retained", Line: "fairlead pub -t devices/door-1/state -m open -q 1 -r"},
		{What: "each line of a program's output", Line: "vmstat 1 | fairlead pub -t host/vmstat -l -q 1"},
		{What: "with properties", Line: "fairlead pub -t a -m '{}' -D publish content-type application/json -D publish user-property source test"},
		{What: "over TLS, with this device's certificate", Line: "fairlead pub -h broker.example -p 8883 --cafile ca.pem --cert door-1.pem --key door-1.key -t devices/door-1/state -m open"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{window: windowDefault, repeat: 1}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	cli.Connection
	topic, file           string
	message               *string
	lines, stdin, null    bool
	qos                   int
	retain, aliases       bool
	repeat, window        int
	repeatDelay, deadline time.Duration
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	f.Group("Message")
	f.String(&c.topic, "t,topic", "TOPIC", "topic to publish to")
	f.OptString(&c.message, "m,message", "TEXT", "the payload")
	f.String(&c.file, "f,file", "FILE", "the payload is the content of FILE")
	f.Bool(&c.stdin, "s,stdin-file", "the payload is all of standard input")
	f.Bool(&c.lines, "l,stdin-line", "one message for each line of standard input")
	f.Bool(&c.null, "n,null-message", "an empty payload; with -r it clears the Retained Message")
	f.Int(&c.qos, "q,qos", "QOS", 0, 2, "0 at most once (default), 1 at least once, 2 exactly once")
	f.Bool(&c.retain, "r,retain", "the broker keeps the message for later subscribers")
	f.Int(&c.repeat, "repeat", "COUNT", 1, math.MaxInt, "send the message COUNT times")
	f.Duration(&c.repeatDelay, "repeat-delay", "SECONDS", "wait this long before each repetition")
	f.Int(&c.window, "M,window,max-inflight", "COUNT", 1, 65535, "with -l: QoS 1 and 2 messages on their way at a time; default 1000")
	f.Bool(&c.aliases, "topic-aliases", "send the topic once and then a number for it (5.0)")
	f.Timeout(&c.deadline, "W,timeout", "SECONDS", "give up after this long; exit code 27")
	c.Connection.Flags(f, "publish", "disconnect")
	return f
}

func (c *command) run(ctx context.Context, env *cli.Env, _ []string) (err error) {
	o, err := c.Options(env)
	if err != nil {
		return err
	}
	if c.topic == "" {
		c.topic = c.URLTopic()
	}
	if err := c.check(); err != nil {
		return err
	}
	o.InflightMax, o.TopicAliases = c.window, c.aliases
	if c.lines {
		// A stream outlives a restart of the broker; a single message is
		// better reported as failed.
		o.Reconnect = true
		o.OnDisconnect = func(err error) { fmt.Fprintf(env.Stderr, "fairlead pub: connection lost, connecting again: %v\n", err) }
	}
	ctx, cancel := cli.Deadline(ctx, c.deadline)
	defer cancel()
	return c.publish(ctx, env, o)
}

func (c *command) publish(ctx context.Context, env *cli.Env, o client.Options) (err error) {
	payload, err := c.payload(env) // before the connect: a wrong file name disturbs nobody
	if err != nil {
		return err
	}
	conn, err := client.Dial(ctx, o)
	if err != nil {
		return cli.TimedOutOr(ctx, err)
	}
	defer func() {
		if left := cli.Part(ctx, conn, c.Connection.Properties().Disconnect, partingTime); err == nil {
			err = left
		}
	}()
	if c.lines {
		return c.stream(ctx, env, conn)
	}
	return c.repeated(ctx, conn, payload)
}

// check says what is missing or too much.
func (c *command) check() error {
	if c.topic == "" {
		return cli.Usagef("no topic: give -t TOPIC")
	}
	if err := topic.CheckName(c.topic); err != nil {
		return cli.Usagef("-t: %v", err)
	}
	given := 0
	for _, is := range []bool{c.message != nil, c.file != "", c.stdin, c.lines, c.null} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return cli.Usagef("nothing to send: give one of -m TEXT, -f FILE, -s, -l or -n")
	case given > 1:
		return cli.Usagef("more than one payload: expected one of -m, -f, -s, -l and -n")
	case c.lines && c.repeat > 1:
		return cli.Usagef("--repeat repeats one message: expected -m, -f, -s or -n with it, not -l")
	}
	return nil
}

// payload reads the one payload; nil with -l.
func (c *command) payload(env *cli.Env) ([]byte, error) {
	switch {
	case c.message != nil:
		return []byte(*c.message), nil
	case c.file != "":
		f, err := os.Open(c.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readAll(f, c.file)
	case c.stdin:
		return readAll(env.Stdin, "standard input")
	}
	return nil, nil
}

func readAll(r io.Reader, name string) ([]byte, error) {
	payload, err := io.ReadAll(io.LimitReader(r, payloadBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(payload) > payloadBytesMax {
		return nil, fmt.Errorf("%s: more than %d bytes, which is all a message can carry", name, payloadBytesMax)
	}
	return payload, nil
}

func (c *command) application(payload []byte) client.Message {
	m := client.Message{Topic: c.topic, Payload: payload, QoS: mqtt.QoS(c.qos), Retain: c.retain}
	c.Connection.Properties().Apply(&m)
	return m
}

// repeated sends one message, as often as --repeat says.
func (c *command) repeated(ctx context.Context, conn *client.Client, payload []byte) error {
	for i := range c.repeat {
		if i > 0 && !pause(ctx, c.repeatDelay) {
			return cli.TimedOut(ctx)
		}
		if err := conn.Publish(ctx, c.application(payload)); err != nil {
			return cli.TimedOutOr(ctx, err)
		}
	}
	return nil
}

// pause waits for d, and reports whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
