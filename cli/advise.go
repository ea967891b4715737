package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"fairlead/admin"
	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/store/backup"
)

// advise says what to do about err in one sentence, or "".
func advise(err error) string {
	var no *client.ReasonError
	if errors.As(err, &no) {
		return adviseReason(no)
	}
	if advice := adviseTLS(err); advice != "" {
		return advice
	}
	var problem *admin.Problem
	if errors.As(err, &problem) {
		return adviseProblem(problem)
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, admin.ErrUnreachable) && errors.Is(err, os.ErrPermission):
		return "The broker there belongs to another user: only that one and root may open its admin.sock."
	case errors.Is(err, admin.ErrUnreachable):
		return "Is a broker running there? --data DIR names another data directory."
	case errors.Is(err, backup.ErrNoPassphrase):
		return "Give it with --passphrase-file FILE, or in FAIRLEAD_PASSPHRASE."
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Nothing listens there. \"fairlead serve\" starts a broker; -h and -p (or -L) name another one."
	case errors.As(err, &dns):
		return "The host name is unknown: check -h, or give an address."
	case errors.Is(err, os.ErrNotExist):
		return "Check the path."
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(err.Error(), "no answer within"):
		return "Check host and port; a port that speaks TLS needs --cafile or --tls, and --connect-timeout waits longer."
	case strings.Contains(err.Error(), "the broker closed the connection"):
		return "If that port speaks TLS, give --cafile FILE; if the broker is older, try -V 311."
	}
	return ""
}

func adviseTLS(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return "The broker's CA is not trusted: --cafile FILE names it."
	case errors.As(err, &name):
		return "The certificate is for another name: connect to that name with -h, or test with --insecure."
	case errors.As(err, &record):
		return "That port does not speak TLS: leave the TLS flags out, or choose another -p."
	case strings.Contains(err.Error(), "certificate required"):
		return "The broker asks for a client certificate: give --cert FILE and --key FILE."
	}
	return ""
}

// adviseProblem is about what a broker's API refuses.
func adviseProblem(p *admin.Problem) string {
	switch p.Status {
	case http.StatusUnauthorized:
		return "Say who you are: --token-file FILE, or --cert FILE --key FILE."
	case http.StatusForbidden:
		return "Your role does not allow it: ask an admin, or show another token."
	case http.StatusPreconditionFailed:
		return "Somebody else was faster: look at it again, and repeat what you still want."
	}
	return ""
}

func adviseReason(no *client.ReasonError) string {
	switch no.Code {
	case mqtt.NotAuthorized:
		if no.Packet == packet.CONNACK {
			return "Say who you are: -u USER -P PASSWORD, or --cert FILE --key FILE. On the broker's own machine leave -h, -p and -L out."
		}
		return "This client may not do that: ask for the right, or connect as somebody else (-u, --cert)."
	case mqtt.BadUserNameOrPassword:
		return "Check -u and -P."
	case mqtt.UnsupportedProtocolVersion:
		return "Try an older protocol: -V 311."
	case mqtt.ClientIdentifierNotValid:
		return "Give another Client Identifier: -i ID."
	case mqtt.SessionTakenOver:
		return "Another client uses the same Client Identifier: give -i another ID."
	}
	return ""
}
