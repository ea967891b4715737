// Package policy says who may do what. [Parse] reads a document of policies,
// [Compile] makes a [Set] of documents, [Set.For] gives the [Rights] of a
// [Principal], and the rights answer: [Rights.Connect], [Rights.Publish],
// [Rights.Subscribe], [Rights.Receive]. Nothing here acts, and nothing changes
// once it is made: any number of goroutines may ask at the same time.
//
// What no rule allows is refused, and what a deny rule denies is refused whatever
// else allows it. docs/policies.md teaches the language of the documents, and
// builtin.yaml holds the policies that are always in force.
//
// Every answer has a twin that explains it, such as [Rights.ExplainPublish]. It
// finds the answer in another way: answers walk through a tree of all rules,
// explanations try the rules one by one. Tests hold the two together.
//
// [Fleet] looks at many principals at once: what a thief of one of them could do,
// what a new [Set] would change. [Suggest] drafts a policy from what was observed.
package policy

import "fairlead/mqtt"

// Principal is an authenticated identity: who is behind a Network Connection.
type Principal struct {
	Device string            // the device's name; empty for a person or a tool
	User   string            // the User Name, if one was given
	Groups []string          // the groups that the device or user belongs to; an operator's roles
	Attrs  map[string]string // attributes from the registry
	Method string            // how the identity was shown: "open", "certificate", ...
	Client mqtt.ClientID     // the Client Identifier of the connection
}

// The methods that decide about rights.
const (
	MethodOpen     = "open"     // a listener that asks nobody who he is: all is allowed
	MethodOperator = "operator" // an operator's tools; the groups are roles
)

// The roles of operators. An operator that has none of them may do nothing.
const (
	RoleViewer   = "viewer"   // may connect and read everything
	RoleOperator = "operator" // may write as well
	RoleAdmin    = "admin"    // the same for messages
)

// Name is what people call the principal: the device's name, or the User Name,
// or the Client Identifier.
func (p *Principal) Name() string {
	switch {
	case p.Device != "":
		return p.Device
	case p.User != "":
		return p.User
	}
	return string(p.Client)
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

// Action is what a rule is about.
type Action int

// The actions, named as the keys of a rule are.
const (
	Connect Action = iota
	Publish
	Subscribe
	actions // how many there are
)

// String returns the key of the action in a rule.
func (a Action) String() string { return [actions]string{"connect", "publish", "subscribe"}[a] }
