// Package policy says who may do what. So far it holds only the words that the
// parts which ask and the parts which answer share: [Principal] and [Verdict].
package policy

import "fairlead/mqtt"

// Principal is an authenticated identity: who is behind a Network Connection.
type Principal struct {
	Device string            // the device's name; empty for a person or a tool
	User   string            // the User Name, if one was given
	Groups []string          // the groups that the device or user belongs to
	Attrs  map[string]string // attributes from the registry
	Method string            // how the identity was shown: "open", "certificate", ...
}

// Verdict is the answer to "may it?". The zero value is yes.
type Verdict struct {
	Code   mqtt.ReasonCode // Success, or why not
	Reason string          // a sentence that the client may read; it names no rule
	// ServerReference goes with UseAnotherServer and ServerMoved.
	ServerReference string
}

// Allowed reports whether the answer is yes.
func (v Verdict) Allowed() bool { return !v.Code.Failed() }
