package admin

import (
	"encoding/json"
	"time"
)

// The types of the API's questions and answers. Server and [Client] share them, and
// docs/openapi.json is made of them. None of them holds a secret that is kept: only a
// [Bundle], a [Password] and an [IssuedToken] hold one, which is shown once.

// Page says which part of a list is wanted.
type Page struct {
	After string // go on behind this item: [List.Next] of the part before
	Limit int    // 0: LimitDefault; at most LimitMax
}

// How many items a list has.
const (
	LimitDefault = 100
	LimitMax     = 1000
)

// List is a part of a list.
type List[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"Parameter after of the next part. Absent: this is the last."`
}

// Device is a device of the registry.
type Device struct {
	Name         string            `json:"name"`
	State        string            `json:"state" enum:"pending,active,suspended,retired"`
	Groups       []string          `json:"groups" nullable:"false"`
	Attrs        map[string]string `json:"attrs"`
	Certificates []Certificate     `json:"certificates" nullable:"false"`
	Password     bool              `json:"password" doc:"Whether it has a password."`
	Created      time.Time         `json:"created"`
	Updated      time.Time         `json:"updated"`
	Rev          uint64            `json:"rev" doc:"Grows with each change. Who changes something may name the revision that was read: the change fails if there is a newer one."`
}

// Certificate is one that the device was given by this broker's CA.
type Certificate struct {
	Serial      string     `json:"serial" doc:"Lower-case hexadecimal without leading zeros."`
	NotAfter    time.Time  `json:"not_after"`
	Fingerprint string     `json:"fingerprint" doc:"SHA-256 of the certificate in DER, in hexadecimal."`
	Revoked     *time.Time `json:"revoked,omitempty"`
	Reason      string     `json:"reason,omitempty" doc:"Why it was revoked."`
}

// DeviceFilter says which devices are listed. Empty fields ask for nothing.
type DeviceFilter struct {
	Prefix string            // of the name
	Group  string            // that it is in
	State  string            // that it is in
	Attrs  map[string]string // that it has
}

// DeviceSpec is a device to be added.
type DeviceSpec struct {
	Name          string            `json:"name" maxLength:"128" doc:"Letters of ASCII, digits, '.', '_' and '-', beginning with a letter or digit."`
	Groups        []string          `json:"groups,omitempty" nullable:"false" maxItems:"32" doc:"New ones are made."`
	Attrs         map[string]string `json:"attrs,omitempty" maxProperties:"32"`
	Again         bool              `json:"again,omitempty" doc:"Give the name of a retired device to this one."`
	CSR           string            `json:"csr,omitempty" maxLength:"16384" doc:"PKCS #10 in PEM, for a key that the device keeps to itself. Absent: a key is made for it, and shown once."`
	NoCertificate bool              `json:"no_certificate,omitempty" doc:"Issue none: the device will show a password, or a certificate of another CA."`
	Days          int               `json:"days,omitempty" minimum:"1" maximum:"3650" doc:"How long the certificate is valid; default: two years."`
}

// Issued is a device, and the certificate that was made for it.
type Issued struct {
	Device Device  `json:"device"`
	Bundle *Bundle `json:"bundle,omitempty"`
}

// Bundle is what a device needs to connect. The key is shown here and kept nowhere.
type Bundle struct {
	Key    string   `json:"key,omitempty" doc:"The private key, PEM; it is kept nowhere else. Absent if the device has sent a CSR."`
	Cert   string   `json:"cert" doc:"The certificate, with what leads to the CA, PEM."`
	CA     string   `json:"ca" doc:"What the device trusts, PEM."`
	Serial string   `json:"serial"`
	URLs   []string `json:"urls" nullable:"false" doc:"Where to connect, the best first."`
}

// DevicePatch changes a device. What is absent stays as it is.
type DevicePatch struct {
	Groups *[]string          `json:"groups,omitempty" nullable:"false" maxItems:"32" doc:"All groups that it is to be in."`
	Attrs  *map[string]string `json:"attrs,omitempty" maxProperties:"32" doc:"All attributes that it is to have."`
	Rev    uint64             `json:"rev,omitempty" doc:"The revision that was read. Absent: whichever it is."`
}

// Change goes with an act on a device.
type Change struct {
	Rev    uint64 `json:"rev,omitempty" doc:"The revision that was read. Absent: whichever it is."`
	Reason string `json:"reason,omitempty" maxLength:"1024" doc:"Why, for the audit log."`
}

// CertificateSpec is a certificate to be made for a device.
type CertificateSpec struct {
	CSR  string `json:"csr,omitempty" maxLength:"16384" doc:"PKCS #10 in PEM. Absent: a key is made, and shown once."`
	Days int    `json:"days,omitempty" minimum:"1" maximum:"3650" doc:"How long it is valid; default: two years."`
	Rev  uint64 `json:"rev,omitempty" doc:"The revision of the device that was read. Absent: whichever it is."`
}

// PasswordSpec is a password to be set: one that was chosen, or one to be made.
type PasswordSpec struct {
	Password string `json:"password,omitempty" minLength:"8" maxLength:"1024"`
	Generate bool   `json:"generate,omitempty" doc:"Make one, and show it once."`
	Rev      uint64 `json:"rev,omitempty" doc:"The revision that was read. Absent: whichever it is."`
}

// Password is one that was made. It is shown here and not kept.
type Password struct {
	Password string `json:"password,omitempty" doc:"Present only if it was generated."`
}

// User is a person or a tool with a User Name.
type User struct {
	Name     string    `json:"name"`
	Role     string    `json:"role" enum:",viewer,operator,admin" doc:"Empty: no part in administration."`
	Groups   []string  `json:"groups" nullable:"false"`
	Disabled bool      `json:"disabled"`
	Password bool      `json:"password" doc:"Whether it has a password."`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
	Rev      uint64    `json:"rev" doc:"Grows with each change."`
}

// UserSpec is a user to be added.
type UserSpec struct {
	Name     string   `json:"name" maxLength:"128" doc:"As a device's, and '@'."`
	Role     string   `json:"role,omitempty" enum:",viewer,operator,admin"`
	Groups   []string `json:"groups,omitempty" nullable:"false" maxItems:"32" doc:"New ones are made."`
	Password string   `json:"password,omitempty" minLength:"8" maxLength:"1024" doc:"Absent: it can't log in by password."`
}

// UserPatch changes a user. What is absent stays as it is.
type UserPatch struct {
	Role     *string   `json:"role,omitempty" enum:",viewer,operator,admin"`
	Groups   *[]string `json:"groups,omitempty" nullable:"false" maxItems:"32" doc:"All groups that it is to be in."`
	Disabled *bool     `json:"disabled,omitempty"`
	Password *string   `json:"password,omitempty" maxLength:"1024" doc:"At least 8 characters; empty: it can't log in by password any more."`
	Rev      uint64    `json:"rev,omitempty" doc:"The revision that was read. Absent: whichever it is."`
}

// Group is a name that policies grant something to.
type Group struct {
	Name    string    `json:"name"`
	About   string    `json:"about,omitempty"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Rev     uint64    `json:"rev"`
}

// GroupSpec is a group to be added.
type GroupSpec struct {
	Name  string `json:"name" maxLength:"128" doc:"As a device's."`
	About string `json:"about,omitempty" maxLength:"1024" doc:"What it is for."`
}

// Token is a random secret that stands for a user or a device.
type Token struct {
	ID      string     `json:"id"`
	Device  string     `json:"device,omitempty"`
	User    string     `json:"user,omitempty"`
	About   string     `json:"about,omitempty"`
	Expires *time.Time `json:"expires,omitempty" doc:"Absent: never."`
	Created time.Time  `json:"created"`
}

// TokenSpec is a token to be made, for a device or a user.
type TokenSpec struct {
	Device  string     `json:"device,omitempty" maxLength:"128"`
	User    string     `json:"user,omitempty" maxLength:"128"`
	About   string     `json:"about,omitempty" maxLength:"1024" doc:"What it is for."`
	Expires *time.Time `json:"expires,omitempty" doc:"Absent: never."`
}

// IssuedToken is a token with its text, which is shown here and not kept.
type IssuedToken struct {
	Token Token  `json:"token"`
	Text  string `json:"text" doc:"The token itself. It is shown once."`
}

// Policy is a document of policies.
type Policy struct {
	Name    string     `json:"name"`
	Text    string     `json:"text"`
	Version int        `json:"version" doc:"Grows with each change; 0: it is a file of the configuration, and can only be changed there."`
	Applied *time.Time `json:"applied,omitempty"`
	By      string     `json:"by,omitempty" doc:"Who has applied it."`
}

// Question asks whether somebody may do something.
type Question struct {
	Device  string `json:"device,omitempty" maxLength:"128" doc:"Who: a device of the registry,"`
	User    string `json:"user,omitempty" maxLength:"128" doc:"or a user."`
	Client  string `json:"client,omitempty" maxLength:"65535" doc:"Its Client Identifier; default: the name."`
	Action  string `json:"action" enum:"connect,publish,subscribe,receive"`
	Topic   string `json:"topic,omitempty" maxLength:"65535" doc:"A topic name, or with subscribe a topic filter; not with connect."`
	QoS     int    `json:"qos,omitempty" minimum:"0" maximum:"2"`
	Retain  bool   `json:"retain,omitempty"`
	Bytes   int    `json:"bytes,omitempty" minimum:"0" doc:"Of the payload."`
	Text    string `json:"text,omitempty" maxLength:"1048576" doc:"A document of policies, to ask what would be if it were applied."`
	TextFor string `json:"text_for,omitempty" maxLength:"128" doc:"The name of the document that text would replace, or a new one."`
}

// Answer says whether, and why.
type Answer struct {
	Allowed  bool   `json:"allowed"`
	Code     int    `json:"code" doc:"The Reason Code of MQTT."`
	Policy   string `json:"policy,omitempty" doc:"Of the rule that decides; absent if none does."`
	Rule     string `json:"rule,omitempty"`
	Place    string `json:"place,omitempty" doc:"FILE:LINE:COLUMN of the rule."`
	Sentence string `json:"sentence"`
}

// Diff says who would gain and lose what.
type Diff struct {
	Members []MemberDiff `json:"members" nullable:"false" doc:"At most 1000."`
	Total   int          `json:"total" doc:"How many gain or lose something."`
	Of      int          `json:"of" doc:"How many were looked at."`
}

// MemberDiff is what one client, device or user would gain and lose.
type MemberDiff struct {
	Name      string       `json:"name"`
	Client    string       `json:"client,omitempty" doc:"Its Client Identifier, if it is known to the broker."`
	Connected bool         `json:"connected"`
	Lost      []Difference `json:"lost" nullable:"false"`
	Gained    []Difference `json:"gained" nullable:"false"`
	// Limits are the new ones, in words; absent: they don't change.
	Limits *LimitsDiff `json:"limits,omitempty"`
}

// Difference is one thing that is allowed before and not after, or the other way.
type Difference struct {
	Action string `json:"action" enum:"connect,publish,subscribe"`
	Topic  string `json:"topic" doc:"A topic name, a topic filter or a client id."`
	Used   bool   `json:"used" doc:"Whether the client has it or did it lately."`
	Why    string `json:"why,omitempty"`
}

// LimitsDiff are limits before and after.
type LimitsDiff struct {
	Before Limits `json:"before"`
	After  Limits `json:"after"`
}

// Limits bound what a client may do beside what it may reach. Absent: no limit.
type Limits struct {
	Messages      string `json:"messages,omitempty" doc:"Like 10/s."`
	Bytes         string `json:"bytes,omitempty" doc:"Like 65536/s."`
	Subscriptions int    `json:"subscriptions,omitempty"`
	SessionExpiry string `json:"session_expiry,omitempty" doc:"Like 24h0m0s."`
}

// Exposure is how many others a thief of one device or user reaches.
type Exposure struct {
	Name     string `json:"name"`
	User     bool   `json:"user,omitempty" doc:"It is a user and not a device."`
	Client   string `json:"client,omitempty" doc:"Its Client Identifier, if it is known to the broker."`
	Score    int    `json:"score" doc:"Twice the devices that can be commanded, and those that can be read. 0: only itself."`
	Commands int    `json:"commands" doc:"Other devices that it can send something to."`
	Data     int    `json:"data" doc:"Other devices whose data it can read."`
	Live     int    `json:"live" doc:"Other clients, now connected, that it can send something to."`
}

// Blast is what somebody with the credentials of a device could do.
type Blast struct {
	Exposure
	Writes      []string `json:"writes" nullable:"false" doc:"Topic filters that it may publish to,"`
	WriteDenies []string `json:"write_denies" nullable:"false" doc:"except these."`
	Reads       []string `json:"reads" nullable:"false" doc:"Topic filters that it may subscribe to,"`
	ReadDenies  []string `json:"read_denies" nullable:"false" doc:"except these."`
	Retained    []string `json:"retained" nullable:"false" doc:"Topics of retained messages that it may read. At most 1000."`
	Victims     []Victim `json:"victims" nullable:"false" doc:"Worst first. At most 1000."`
	// VictimsTotal and RetainedTotal count those that are not listed too.
	VictimsTotal  int `json:"victims_total"`
	RetainedTotal int `json:"retained_total"`
}

// Victim is somebody that a thief reaches. Of each kind a few topic filters are listed.
type Victim struct {
	Name     string   `json:"name"`
	Client   string   `json:"client,omitempty"`
	Live     []string `json:"live" nullable:"false" doc:"Its subscriptions that are reached now."`
	Commands []string `json:"commands" nullable:"false" doc:"What can be sent to it."`
	Data     []string `json:"data" nullable:"false" doc:"What can be read of it."`
}

// Suggestion is a draft of a policy, made of what was seen.
type Suggestion struct {
	Name string `json:"name"`
	Text string `json:"text" doc:"A document to review and apply. Empty: the device needs nothing that it doesn't have."`
	// Subscribed and Published are how much of it was seen.
	Subscribed int `json:"subscribed" doc:"Subscriptions that it was made of."`
	Published  int `json:"published" doc:"Topics published to, lately, that it was made of."`
}

// CAInfo is the broker's own CA and what it works with.
type CAInfo struct {
	Fingerprint string   `json:"fingerprint" doc:"SHA-256 of the root's certificate, in hexadecimal."`
	Root        string   `json:"root" doc:"The root's certificate, PEM."`
	Expiries    []Expiry `json:"expiries" nullable:"false" doc:"The soonest first."`
	Revoked     int      `json:"revoked" doc:"Certificates that are revoked and have not ended by time."`
}

// Expiry says when something ends.
type Expiry struct {
	What     string    `json:"what" doc:"root CA, issuing CA, server certificate, or a file's name."`
	NotAfter time.Time `json:"not_after"`
	Renews   bool      `json:"renews" doc:"It is renewed before, without anybody's help."`
}

// AuditQuery says which entries of the audit log are listed, newest first. Empty fields
// ask for nothing.
type AuditQuery struct {
	Since, Until time.Time
	Actor        string
	Action       string // with a dot at the end: what it begins with
	Object       string
	Kind         string // act, refusal or note
}

// AuditEntry is an entry of the audit log, as it stands there.
type AuditEntry struct {
	Number uint64          `json:"n"`
	Time   time.Time       `json:"time"`
	Kind   string          `json:"kind" enum:"act,refusal,note"`
	Actor  AuditActor      `json:"actor,omitzero"`
	Source string          `json:"source,omitempty"`
	Action string          `json:"action"`
	Object string          `json:"object,omitempty"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	Reason string          `json:"reason,omitempty"`
	Count  uint64          `json:"count,omitempty"`
	Since  *time.Time      `json:"since,omitempty"`
	Prev   string          `json:"prev"`
	Hash   string          `json:"hash"`
}

// AuditActor is who did something, or wanted to.
type AuditActor struct {
	Name string `json:"name,omitempty"`
	Role string `json:"role,omitempty"`
	How  string `json:"how,omitempty"`
}

// AuditAnchor is number and hash of an entry, kept elsewhere.
type AuditAnchor struct {
	Number uint64 `json:"n"`
	Hash   string `json:"hash" pattern:"^[0-9a-f]{64}$"`
}

// AuditReport is what a verification of the audit log has found.
type AuditReport struct {
	OK       bool         `json:"ok" doc:"The log is whole."`
	Files    int          `json:"files"`
	Entries  uint64       `json:"entries"`
	Bytes    int64        `json:"bytes"`
	First    uint64       `json:"first"`
	Last     uint64       `json:"last"`
	LastHash string       `json:"last_hash"`
	Removed  uint64       `json:"removed" doc:"Entries removed because of a limit."`
	Lost     uint64       `json:"lost" doc:"Refusals that have no entry."`
	Wrong    []AuditWrong `json:"wrong" nullable:"false" doc:"Where the log is not what was written, the first first."`
	More     int          `json:"more" doc:"Wrong places beyond those."`
}

// AuditWrong is a place where the audit log is not what was written.
type AuditWrong struct {
	File     string `json:"file"`
	Line     int    `json:"line,omitempty"`
	Number   uint64 `json:"n,omitempty"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// ClientFilter says which clients are listed. Empty fields ask for nothing.
type ClientFilter struct {
	Prefix    string // of the Client Identifier
	Device    string
	User      string
	Connected *bool
}

// ClientInfo is a client that the broker knows: connected, or with a session.
type ClientInfo struct {
	Client        string         `json:"client" doc:"The Client Identifier."`
	Device        string         `json:"device,omitempty"`
	User          string         `json:"user,omitempty"`
	Method        string         `json:"method,omitempty" doc:"How it has shown who it is."`
	Connected     bool           `json:"connected"`
	Remote        string         `json:"remote,omitempty" doc:"The address it connects from."`
	Since         *time.Time     `json:"since,omitempty" doc:"When it has connected."`
	Subscriptions []Subscription `json:"subscriptions" nullable:"false" doc:"At most 100."`
	// SubscriptionsTotal counts those that are not listed too.
	SubscriptionsTotal int `json:"subscriptions_total"`
}

// Subscription is a subscription of a session.
type Subscription struct {
	Filter string `json:"filter"`
	QoS    int    `json:"qos"`
}

// Finding is something that is insecure, or about to end.
type Finding struct {
	Severity string `json:"severity" enum:"danger,warning,advice"`
	What     string `json:"what"`
	Why      string `json:"why"`
	Command  string `json:"command,omitempty" doc:"What mends it."`
}

// The severities of a [Finding], worst first.
const (
	Danger  = "danger"
	Warning = "warning"
	Advice  = "advice"
)

// Findings are what is insecure or about to end, worst first.
type Findings struct {
	Findings []Finding `json:"findings" nullable:"false"`
}

// AuditAnchors are anchors of the audit log that were kept elsewhere.
type AuditAnchors struct {
	Anchors []AuditAnchor `json:"anchors,omitempty" nullable:"false" maxItems:"100"`
}

// attrPrefix begins the names of parameters that ask for attributes of a device.
const attrPrefix = "attr."
