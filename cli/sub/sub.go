// Package sub is the command "fairlead sub": it subscribes and prints messages
// as mosquitto_sub does. Begin with [Command].
package sub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"fairlead/cli"
	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

const (
	// batchMax is how many messages are printed before the output is flushed
	// and they are acknowledged.
	batchMax = 256
	// partingTime bounds the leaving: DISCONNECT and the broker's answer to it.
	partingTime = 3 * time.Second
	// clearTimeMax bounds one clearing of a Retained Message.
	clearTimeMax = 10 * time.Second
)

// Command is "fairlead sub".
var Command = &cli.Command{
	Name: "sub", Group: "Messages", Summary: "subscribe and print messages",
	About: `The flags are mosquitto_sub's. Unlike there, MQTT 5 is the default, because only
it can say why a broker refused; -V 311 is the older protocol.

A message is acknowledged once it is written to standard output. When the
connection is lost, sub connects again. Exit code: 0 done (-C, -E) or
interrupted, 1 refused or failed, 2 wrong command line, 27 when -W has passed.

Format of -F: %t topic, %p payload, %x %X payload in hex, %l its length, %q QoS,
%r RETAIN, %m Packet Identifier, %j %J JSON (payload as text, as JSON), %I time,
%U Unix time; MQTT 5: %A alias, %C content type, %D correlation data, %E expiry,
%F format indicator, %P user properties, %R response topic, %S subscription ids.
%10t pads, %-10.10t cuts too. @X is strftime's %X, \n \t \0 \e and so on are
escapes.`,
	Examples: []cli.Example{
		{What: "everything, with topics", Line: "fairlead sub -t '#' -v"},
		{What: "the next message, then exit; give up after 5 seconds", Line: "fairlead sub -t devices/door-1/state -C 1 -W 5"},
		{What: "one JSON object a line", Line: "fairlead sub -t 'devices/#' --json | jq .topic"},
		{What: "collect while away: the session waits for us", Line: "fairlead sub -i collector -c -q 1 -t 'devices/#'"},
		{What: "clear all Retained Messages below a topic", Line: "fairlead sub -t 'devices/#' --remove-retained --retained-only -W 2"},
		{What: "a format of your own", Line: `fairlead sub -t '#' -F '@H:@M:@S %-20t %q %p'`},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{chance: 100}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	cli.Connection
	filters, without, unsubscribe []string
	qos, count, retainHandling    int
	deadline                      time.Duration
	noLocal, asPublished          bool
	exitSubscribed                bool
	fresh, retainedOnly, clear    bool
	verbose, noEnd, json, pretty  bool
	format                        string
	chance                        float64
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	f.Group("Subscriptions")
	f.Strings(&c.filters, "t,topic", "FILTER", "topic filter, with + and #; may be repeated")
	f.Int(&c.qos, "q,qos", "QOS", 0, 2, "highest QoS of the messages; default 0")
	f.Strings(&c.without, "T,filter-out", "FILTER", "do not print what matches; may be repeated")
	f.Strings(&c.unsubscribe, "U,unsubscribe", "FILTER", "end a subscription of the kept session; may be repeated")
	f.Bool(&c.noLocal, "no-local", "not what this client itself publishes (5.0)")
	f.Bool(&c.asPublished, "retain-as-published", "keep the publisher's RETAIN flag (5.0)")
	f.Int(&c.retainHandling, "retain-handling", "HOW", 0, 2, "Retained Messages: 0 send, 1 if the subscription is new, 2 never (5.0)")
	f.Group("When to stop")
	f.Int(&c.count, "C,count", "COUNT", 1, math.MaxInt, "exit after printing so many messages")
	f.Timeout(&c.deadline, "W,timeout", "SECONDS", "exit after this long; exit code 27")
	f.Bool(&c.exitSubscribed, "E,exit-after-subscribe", "exit when the broker has granted the subscriptions")
	f.Group("What to print")
	f.Bool(&c.verbose, "v,verbose", "topic and payload")
	f.String(&c.format, "F,format", "FORMAT", "a format of your own; see above")
	f.Bool(&c.json, "json", "one JSON object for each message")
	f.Bool(&c.pretty, "pretty", "JSON over several lines")
	f.Bool(&c.noEnd, "N,no-newline", "no end of line after a message")
	f.Bool(&c.fresh, "R,no-retained", "not the Retained Messages")
	f.Bool(&c.retainedOnly, "retained-only", "Retained Messages only; exit at the first other message")
	f.Bool(&c.clear, "remove-retained", "clear each Retained Message that arrives")
	f.Func("random-filter", "PERCENT", "print only this share of the messages", c.setChance)
	c.Connection.Flags(f, "subscribe", "unsubscribe", "disconnect")
	return f
}

func (c *command) setChance(s string) error {
	p, err := strconv.ParseFloat(s, 64)
	if err != nil || !(p > 0 && p <= 100) {
		return fmt.Errorf("%q: expected a percentage above 0 and up to 100", s)
	}
	c.chance = p
	return nil
}

func (c *command) run(ctx context.Context, env *cli.Env, _ []string) error {
	o, err := c.Options(env)
	if err != nil {
		return err
	}
	if t := c.URLTopic(); t != "" {
		c.filters = append(c.filters, t)
	}
	print, err := c.check()
	if err != nil {
		return err
	}
	o.ManualAck, o.Reconnect = true, true
	o.OnDisconnect = func(err error) { fmt.Fprintf(env.Stderr, "fairlead sub: connection lost, connecting again: %v\n", err) }
	ctx, cancel := cli.Deadline(ctx, c.deadline)
	defer cancel()
	conn, err := client.Dial(ctx, o)
	if err != nil {
		return cli.TimedOutOr(ctx, err)
	}
	err = c.serve(ctx, env, conn, print)
	return errors.Join(err, cli.Part(ctx, conn, c.Connection.Properties().Disconnect, partingTime))
}

// check says what is wrong with the flags, and compiles the format.
func (c *command) check() (printer, error) {
	if len(c.filters) == 0 && len(c.unsubscribe) == 0 {
		return nil, cli.Usagef("no topic filter: give -t FILTER")
	}
	if (c.noLocal || c.asPublished || c.retainHandling != 0) && c.Version() < mqtt.V5 {
		return nil, cli.Usagef("--no-local, --retain-as-published and --retain-handling need MQTT 5.0: leave -V out")
	}
	if c.fresh && c.retainedOnly {
		return nil, cli.Usagef("-R and --retained-only leave nothing to print: expected one of them")
	}
	for flag, filters := range map[string][]string{"-t": c.filters, "-T": c.without, "-U": c.unsubscribe} {
		for _, f := range filters {
			if _, err := topic.ParseFilter(f); err != nil {
				return nil, cli.Usagef("%s: %v", flag, err)
			}
		}
	}
	return c.printer()
}

// serve subscribes and prints until it is enough.
func (c *command) serve(ctx context.Context, env *cli.Env, conn *client.Client, print printer) error {
	if err := c.subscribe(ctx, env, conn); err != nil {
		return cli.TimedOutOr(ctx, err)
	}
	if c.exitSubscribed || len(c.filters) == 0 {
		return nil
	}
	s := &session{command: c, env: env, conn: conn, print: print, out: bufio.NewWriterSize(env.Stdout, 64<<10)}
	err := s.loop(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return c.ended(ctx)
	}
	return err
}

// ended is how the command ends with ctx: an interrupt is a good end.
func (c *command) ended(ctx context.Context) error {
	var exit *cli.ExitError
	if err := cli.TimedOut(ctx); errors.As(err, &exit) {
		return &cli.ExitError{Code: exit.Code} // -W passing is what was asked for: no words
	}
	return nil
}

// subscribe subscribes, then unsubscribes. Refused filters are named; it is an
// error if all are refused.
func (c *command) subscribe(ctx context.Context, env *cli.Env, conn *client.Client) error {
	p := c.Connection.Properties()
	if len(c.filters) > 0 {
		reasons, err := conn.Subscribe(ctx, c.subscriptions(), p.Subscribe)
		if err := c.reportRefused(env, reasons, err); err != nil {
			return err
		}
	}
	if len(c.unsubscribe) == 0 {
		return nil
	}
	_, err := conn.Unsubscribe(ctx, c.unsubscribe, p.Unsubscribe)
	return err
}

func (c *command) subscriptions() []client.Subscription {
	subs := make([]client.Subscription, len(c.filters))
	for i, f := range c.filters {
		subs[i] = client.Subscription{
			Filter: f, QoS: mqtt.QoS(c.qos), NoLocal: c.noLocal,
			RetainAsPublished: c.asPublished, RetainHandling: byte(c.retainHandling),
		}
	}
	return subs
}

func (c *command) reportRefused(env *cli.Env, reasons []mqtt.ReasonCode, err error) error {
	if err == nil || reasons == nil {
		return err
	}
	granted := 0
	for i, code := range reasons {
		if !code.Failed() {
			granted++
			continue
		}
		if i < len(c.filters) {
			fmt.Fprintf(env.Stderr, "fairlead sub: %s refused: %s\n", c.filters[i], code)
		}
	}
	if granted > 0 {
		return nil
	}
	return err
}

// session prints the messages of one run.
type session struct {
	*command
	env     *cli.Env
	conn    *client.Client
	print   printer
	out     *bufio.Writer
	line    []byte            // reused from message to message
	printed int               // messages printed
	owed    []*client.Message // printed, not flushed and acknowledged
}

// errEnough ends the loop.
var errEnough = errors.New("enough")

func (s *session) loop(ctx context.Context) error {
	for {
		m, err := s.conn.Receive(ctx)
		for ; err == nil && m != nil; m = s.conn.TryReceive() {
			if err = s.take(ctx, m); err != nil || len(s.owed) >= batchMax {
				break
			}
		}
		if flushed := s.flush(); flushed != nil {
			return flushed
		}
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// flush writes what was printed and only then acknowledges it.
func (s *session) flush() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	for i, m := range s.owed {
		m.Ack()
		s.owed[i] = nil
	}
	s.owed = s.owed[:0]
	return nil
}

// take does what the flags say with one message.
func (s *session) take(ctx context.Context, m *client.Message) error {
	if s.retainedOnly && !m.Retain {
		return errEnough // not acknowledged: a kept session will have it again
	}
	s.owed = append(s.owed, m)
	if s.filteredOut(m.Topic) {
		return nil
	}
	if s.clear && m.Retain && len(m.Payload) > 0 {
		if err := s.clearRetained(ctx, m.Topic); err != nil {
			return err
		}
	}
	if s.fresh && m.Retain || s.chance < 100 && rand.Float64()*100 >= s.chance {
		return nil
	}
	s.write(m)
	if s.printed++; s.printed == s.count {
		return errEnough
	}
	return nil
}

func (s *session) write(m *client.Message) {
	if s.bare() && len(m.Payload) == 0 {
		return // not even an end of line, as mosquitto_sub
	}
	line, err := s.print(s.line[:0], m, time.Now())
	if err != nil {
		fmt.Fprintf(s.env.Stderr, "fairlead sub: topic %s: %v\n", m.Topic, err)
		return
	}
	if !s.noEnd {
		line = append(line, '\n')
	}
	_, _ = s.out.Write(line) // flush has the error
	if s.line = line; cap(line) > 1<<20 {
		s.line = nil
	}
}

func (s *session) filteredOut(name string) bool {
	for _, f := range s.without {
		if topic.Match(f, name) {
			return true
		}
	}
	return false
}

func (s *session) clearRetained(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, clearTimeMax)
	defer cancel()
	err := s.conn.Publish(ctx, client.Message{Topic: name, Retain: true})
	var no *client.ReasonError
	if errors.As(err, &no) && no.Packet != packet.DISCONNECT {
		fmt.Fprintf(s.env.Stderr, "fairlead sub: clear %s: %v\n", name, err)
		return nil
	}
	return err
}
