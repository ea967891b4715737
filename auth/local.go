package auth

import (
	"slices"
	"strconv"

	"fairlead/policy"
)

// SchemeAdmin is the Info.Scheme of a connection that came over admin.sock. No
// listener that can be configured has it.
const SchemeAdmin = "admin"

// OperatorName is the user behind admin.sock.
const OperatorName = "operator"

// Operator accepts whoever comes over admin.sock: the right to open the file is the
// identity. The Principal is the user "operator" in the group "admin", with the Unix
// user id as attribute uid if it is known.
type Operator struct{}

// Name implements [Method].
func (Operator) Name() string { return policy.MethodOperator }

func (o Operator) judge(a *attempt) answer {
	if a.Info.Scheme != SchemeAdmin {
		return answer{}
	}
	p := &proof{method: o.Name(), user: OperatorName, groups: []string{RoleAdmin}, apart: true}
	if a.Info.UID >= 0 {
		p.attrs = map[string]string{"uid": strconv.Itoa(a.Info.UID)}
	}
	return answer{proof: p}
}

// Anonymous accepts Clients that show nothing, on the listeners that say so. It
// stands last in a Chain.
type Anonymous struct {
	Listeners []string // by name
	// Anybody accepts those as well who show a user name or a password, whatever
	// they are, and the method is "open", which policies allow everything. Nothing of
	// what they show becomes part of the Principal, because nobody has verified it.
	Anybody bool
}

// Name implements [Method].
func (m Anonymous) Name() string {
	if m.Anybody {
		return policy.MethodOpen
	}
	return "anonymous"
}

func (m Anonymous) judge(a *attempt) answer {
	if !slices.Contains(m.Listeners, a.Info.Listener) || !m.Anybody && (a.Connect.HasUser || a.Connect.HasPassword) {
		return answer{}
	}
	return answer{proof: &proof{method: m.Name(), apart: true}}
}
