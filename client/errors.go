package client

import (
	"errors"
	"fmt"
	"strings"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

var (
	// ErrClosed is what calls return after Disconnect.
	ErrClosed = errors.New("the client is closed")
	// ErrSessionLost ends a QoS 2 Publish whose session the broker no longer
	// had at the reconnect: whether the message arrived cannot be known, and
	// sending it again could deliver it twice.
	ErrSessionLost = errors.New("the broker lost the session while a QoS 2 message was on its way: it may or may not have arrived")
	// ErrPingTimeout is the cause of a connection's end when the broker did
	// not answer PINGREQ in time.
	ErrPingTimeout = errors.New("no answer to PINGREQ in time")
)

// A LimitError says that a message was not sent, because the broker's CONNACK
// has announced that it takes none of the kind.
type LimitError struct {
	Code mqtt.ReasonCode // what the broker would have answered
	What string          // what was asked and what it allows
}

// Error reads like "not sent: QoS 2: the broker's Maximum QoS is 1 (0x9B QoS not supported)".
func (e *LimitError) Error() string { return fmt.Sprintf("not sent: %s (%s)", e.What, e.Code) }

// A ReasonError is the broker's no: a CONNACK, PUBACK, PUBREC, PUBCOMP, SUBACK,
// UNSUBACK, DISCONNECT or AUTH with a Reason Code of 0x80 or more.
type ReasonError struct {
	Packet packet.Type     // the packet that said it
	Code   mqtt.ReasonCode // for 3.1 and 3.1.1 the 5.0 code that means the same
	Reason string          // the Reason String, or ""
	// ServerReference is where to go instead, or "".
	ServerReference string
	// Filter is the Topic Filter that was refused; SUBACK and UNSUBACK only.
	Filter string
}

// Error reads like `PUBACK: 0x87 Not authorized: topic not granted`.
func (e *ReasonError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Packet, e.Code)
	if e.Filter != "" {
		fmt.Fprintf(&b, ": %q", e.Filter)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, ": %s", e.Reason)
	}
	if e.ServerReference != "" {
		fmt.Fprintf(&b, " (use %s)", e.ServerReference)
	}
	return b.String()
}

// reasonError returns the broker's no, or nil if the code is none.
func reasonError(t packet.Type, code mqtt.ReasonCode, p *packet.Properties) error {
	if !code.Failed() {
		return nil
	}
	return newReasonError(t, code, p)
}

func newReasonError(t packet.Type, code mqtt.ReasonCode, p *packet.Properties) *ReasonError {
	e := &ReasonError{Packet: t, Code: code}
	if p.Has(mqtt.ReasonString) {
		e.Reason = p.ReasonString
	}
	if p.Has(mqtt.ServerReference) {
		e.ServerReference = p.ServerReference
	}
	return e
}

// temporary reports whether connecting again may help. Being taken over is
// final: two clients with one Client Identifier would take turns for ever.
func temporary(err error) bool {
	var no *ReasonError
	if !errors.As(err, &no) {
		return true
	}
	switch no.Code {
	case mqtt.ServerUnavailable, mqtt.ServerBusy, mqtt.ServerShuttingDown, mqtt.KeepAliveTimeout,
		mqtt.UnspecifiedError, mqtt.ImplementationSpecificError, mqtt.MessageRateTooHigh, mqtt.QuotaExceeded,
		mqtt.AdministrativeAction, mqtt.ConnectionRateExceeded, mqtt.MaximumConnectTime, mqtt.ReceiveMaximumExceeded:
		return true
	}
	return !no.Code.Failed() // a DISCONNECT may carry success
}
