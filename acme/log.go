package acme

import (
	"fmt"

	"go.uber.org/zap/zapcore"
)

// logCore is where certmagic's log goes: its errors are reported. What it says of
// the attempts to get and renew a certificate comes as an event as well, and is left
// out.
type logCore struct {
	report func(Event)
	fields []zapcore.Field
}

// Enabled implements [zapcore.LevelEnabler].
func (c logCore) Enabled(l zapcore.Level) bool { return l >= zapcore.ErrorLevel }

// With implements [zapcore.Core].
func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

// Check implements [zapcore.Core].
func (c logCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || e.LoggerName == "obtain" || e.LoggerName == "renew" || e.Message == "job failed" {
		return checked
	}
	return checked.AddCore(e, c)
}

// Write implements [zapcore.Core].
func (c logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
	}
	event := Event{Err: errLog(e.Message, text(values.Fields["error"]))}
	for _, name := range []string{"identifier", "subject", "server_name"} {
		if event.Host == "" {
			event.Host = text(values.Fields[name])
		}
	}
	c.report(event)
	return nil
}

func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// Sync implements [zapcore.Core].
func (c logCore) Sync() error { return nil }
