package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// AnyVersion is given to [Client.ApplyPolicy] by who wants to replace whatever there is.
const AnyVersion = -1

// Policies lists the documents in force, all in one part: files of the configuration,
// then the others by name.
func (c *Client) Policies(ctx context.Context) (*List[Policy], error) {
	all := &List[Policy]{Items: []Policy{}}
	for p, err := range All(func(after string) (*List[Policy], error) {
		return ask[List[Policy]](ctx, c, call{method: http.MethodGet, path: at("policies"), query: query("after", after)})
	}) {
		if err != nil {
			return nil, err
		}
		all.Items = append(all.Items, p)
	}
	return all, nil
}

// Policy asks for one document.
func (c *Client) Policy(ctx context.Context, name string) (*Policy, error) {
	return ask[Policy](ctx, c, call{method: http.MethodGet, path: at("policies", name)})
}

// ApplyPolicy puts a document in force, instead of the one that has the version;
// 0: there is none of that name yet; AnyVersion: whichever there is.
func (c *Client) ApplyPolicy(ctx context.Context, name string, text []byte, version int) (*Policy, error) {
	q := call{method: http.MethodPut, path: at("policies", name), body: text}
	if version != AnyVersion {
		q.match = strconv.Quote(strconv.Itoa(version))
	}
	return ask[Policy](ctx, c, q)
}

// RemovePolicy takes a document out of force.
func (c *Client) RemovePolicy(ctx context.Context, name string) error {
	return c.tell(ctx, call{method: http.MethodDelete, path: at("policies", name)})
}

// CheckPolicy asks whether somebody may do something, and why.
func (c *Client) CheckPolicy(ctx context.Context, q Question) (*Answer, error) {
	return ask[Answer](ctx, c, call{method: http.MethodPost, path: at("policies", "check"), body: q})
}

// DiffPolicy asks who would gain and lose what if the document were applied.
func (c *Client) DiffPolicy(ctx context.Context, name string, text []byte) (*Diff, error) {
	return ask[Diff](ctx, c, call{method: http.MethodPost, path: at("policies", "diff"), query: query("name", name), body: text})
}

// BlastRadius asks what a thief of a device's credentials could do.
func (c *Client) BlastRadius(ctx context.Context, device string) (*Blast, error) {
	return ask[Blast](ctx, c, call{method: http.MethodGet, path: at("policies", "blast-radius", device)})
}

// RankDevices lists devices, and users if that is wanted, whose score is above a
// bound, worst first. Above -1 are all.
func (c *Client) RankDevices(ctx context.Context, above int, users bool, p Page) (*List[Exposure], error) {
	q := p.add(query("above", strconv.Itoa(above)))
	if users {
		q.Set("users", "true")
	}
	return ask[List[Exposure]](ctx, c, call{method: http.MethodGet, path: at("policies", "blast-radius"), query: q})
}

// SuggestPolicy asks for a draft of the least policy that covers what a device did.
func (c *Client) SuggestPolicy(ctx context.Context, device string) (*Suggestion, error) {
	return ask[Suggestion](ctx, c, call{method: http.MethodGet, path: at("policies", "suggest", device)})
}

// CA asks for the broker's CA.
func (c *Client) CA(ctx context.Context) (*CAInfo, error) {
	return ask[CAInfo](ctx, c, call{method: http.MethodGet, path: at("ca")})
}

// RootPEM asks for the certificate that devices trust.
func (c *Client) RootPEM(ctx context.Context) ([]byte, error) {
	return c.read(ctx, at("ca", "root.pem"))
}

// CRLPEM asks for the revocation list.
func (c *Client) CRLPEM(ctx context.Context) ([]byte, error) {
	return c.read(ctx, at("ca", "crl.pem"))
}

// Audit lists entries of the audit log, newest first.
func (c *Client) Audit(ctx context.Context, f AuditQuery, p Page) (*List[AuditEntry], error) {
	q := p.add(query("since", stamp(f.Since), "until", stamp(f.Until), "actor", f.Actor, "action", f.Action, "object", f.Object, "kind", f.Kind))
	return ask[List[AuditEntry]](ctx, c, call{method: http.MethodGet, path: at("audit"), query: q})
}

// VerifyAudit has the audit log verified, also against anchors that were kept
// elsewhere.
func (c *Client) VerifyAudit(ctx context.Context, anchors ...AuditAnchor) (*AuditReport, error) {
	return ask[AuditReport](ctx, c, call{method: http.MethodPost, path: at("audit", "verify"), body: AuditAnchors{Anchors: anchors}})
}

// stamp is a time for a query; empty: none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}
