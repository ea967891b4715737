// Package node builds one running node from a configuration. It is the only
// place where all parts meet. Begin with [Run].
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"sync"
	"time"

	"fairlead/admin"
	"fairlead/broker"
	"fairlead/ca"
	"fairlead/config"
	"fairlead/listen"
	"fairlead/mqtt/session"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
	"fairlead/store/pebble"
)

// Node is what Run needs to know beside the configuration.
type Node struct {
	Config  *config.Config
	Logger  *slog.Logger
	Version string
	// Ready is called once all listeners are open, with the URLs to connect to.
	// Nil: nobody waits.
	Ready func(urls []string)
}

// shutdownTime is how long clients may delay a clean shutdown.
const shutdownTime = 5 * time.Second

// Run runs the node until ctx ends, and then shuts it down: clients are told,
// and what was accepted is finished. The error says what kept it from running.
func Run(ctx context.Context, n Node) (err error) {
	c := n.Config
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	engine, err := openStore(ctx, n)
	if err != nil {
		return err
	}
	if engine != nil {
		defer engine.Close()
	}
	id, err := openIdentity(ctx, n, registryKV(engine))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, id.close()) }()
	d, err := openDoors(ctx, n, id)
	if err != nil {
		return err
	}
	limits := brokerLimits(&c.Limits)
	b, err := broker.Open(ctx, broker.Options{
		Limits: &limits, Logger: n.Logger, SysEvery: c.Sys.Interval, Version: n.Version, Store: engine,
		Auth: id.auther(), Admission: id.admission(), SysMore: func() map[string]string { return sysOf(id, d) },
	})
	if err != nil {
		return errors.Join(err, d.close())
	}
	local, err := openAdmin(n, id, d, b, engine)
	if err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		return errors.Join(err, d.close(), b.Shutdown(last))
	}

	background, end := context.WithCancel(context.WithoutCancel(ctx))
	id.run(background, n, b)
	d.run(background, n)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	for _, l := range d.listeners {
		n.Logger.Info("listening", "url", l.URL())
		wg.Go(func() { // ends with stop, and with its connections
			l.Serve(serving, func(_ context.Context, conn listen.Conn) { b.Serve(conn) })
		})
	}
	d.shout(n)
	if n.Ready != nil {
		n.Ready(d.urls())
	}
	<-ctx.Done()
	n.Logger.Info("shutting down")
	stop()
	if local != nil {
		if err := local.Close(); err != nil { // before Shutdown, which waits for a backup
			n.Logger.Warn("the administration's socket was not closed well", "err", err)
		}
	}
	end()
	id.wait()
	d.work.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err = b.Shutdown(last)
	wg.Wait()
	return err
}

// registryKV is where the registry and the policies are kept: in memory if nothing
// survives.
func registryKV(e store.Engine) store.KV {
	if e == nil {
		return mem.New().KV()
	}
	return e.KV()
}

// openAdmin opens the socket for the operator at the machine, and the HTTPS side if it
// is configured. Without the socket clients are served all the same; a HTTPS side that
// was asked for must be there.
func openAdmin(n Node, id *identity, d *doors, b *broker.Broker, engine store.Engine) (*admin.Server, error) {
	o := admin.Options{
		Dir: n.Config.Data, Broker: b, Store: engine, Durability: n.Config.Durability, Logger: n.Logger,
		Registry: id.registry, CA: id.ca, Audit: id.audit, Policies: id.policies, URLs: func() []string { return d.best(n) },
		Doctor: func(context.Context) []admin.Finding { return examine(n, id, d, b) },
	}
	if n.Config.Admin.Listen != "" {
		u, err := url.Parse(n.Config.Admin.Listen)
		if err != nil {
			return nil, fmt.Errorf("admin.listen: %w", err)
		}
		o.Listen = u.Host
		o.TLS = id.ca.TLS(ca.TLSOptions{ClientCerts: ca.ClientCertOptional, NextProtos: []string{"http/1.1"}})
	}
	a, err := admin.Open(o)
	if err != nil && o.Listen == "" {
		n.Logger.Error("no local administration: \"fairlead status\", \"fairlead device\" and their like can't reach this broker", "err", err)
		return nil, nil
	}
	return a, err
}

// openStore opens what must survive in the data directory; nil if nothing must.
func openStore(ctx context.Context, n Node) (store.Engine, error) {
	c := n.Config
	o := pebble.Options{Logger: n.Logger}
	switch c.Durability {
	case "memory":
		n.Logger.Warn("nothing survives the end of the broker (--durability memory)")
		return nil, nil
	case "os":
		o.Durability = pebble.OS
		n.Logger.Warn("a loss of power takes the latest acknowledged messages with it (--durability os)")
	}
	e, err := pebble.Open(c.Data, o)
	if err != nil {
		return nil, err
	}
	half, err := backup.Unfinished(ctx, e)
	if half {
		err = fmt.Errorf("data directory %s: %w", c.Data, backup.ErrUnfinished)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// brokerLimits says the configured limits in the broker's words.
func brokerLimits(l *config.Limits) broker.Limits {
	return broker.Limits{
		Limits: session.Limits{
			ReceiveMaximum: l.ReceiveMaximum, TopicAliasMaximum: l.TopicAliasMaximum, PacketBytes: uint32(l.PacketBytes),
			KeepAliveMax: uint16(l.KeepAliveMax / time.Second), ExpiryMax: seconds(l.SessionExpiryMax),
			WillDelayMax: seconds(l.WillDelayMax), InFlight: l.Inflight, AliasesOut: l.TopicAliasMaximum,
			Subscriptions: l.Subscriptions, QueueMessages: l.QueueMessages, QueueBytes: int(l.QueueBytes), QueueAge: l.QueueAge,
		},
		Connections: l.Connections, Sessions: l.Sessions, ConnectTimeout: l.ConnectTimeout, OutboxBytes: int(l.OutboxBytes),
		QueuedBytes: int64(l.QueuedBytesTotal), QueuedMemory: int64(l.QueuedBytesMemory), DropOldest: l.QueueFull == "drop_oldest",
		RetainedMessages: l.RetainedMessages,
		RetainedBytes:    int64(l.RetainedBytes), TopicLevels: l.TopicLevels,
	}
}

// seconds is a limit in the protocol's unit; 0 means that there is none.
func seconds(d time.Duration) uint32 {
	if d <= 0 || d/time.Second >= math.MaxUint32 {
		return math.MaxUint32
	}
	return uint32(d / time.Second)
}
