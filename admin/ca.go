package admin

import (
	"context"
	"fmt"
	"slices"
)

func (s *Server) caRoutes(a *api) {
	add(a, "GET /v1/ca", "Shows the broker's CA and when what it works with ends.", s.showCA)
	add(a, "GET /v1/ca/root.pem", "The certificate that devices trust.", s.showRoot)
	add(a, "GET /v1/ca/crl.pem", "The revocation list.", s.showCRL)
}

func (s *Server) showCA(context.Context, *struct{}) (*answer[CAInfo], error) {
	a, err := s.authority()
	if err != nil {
		return nil, err
	}
	c := CAInfo{Fingerprint: a.Fingerprint(), Root: string(a.Root()), Expiries: []Expiry{}, Revoked: len(a.Revocations())}
	for _, e := range a.Expiries() {
		c.Expiries = append(c.Expiries, Expiry{What: e.What, NotAfter: e.NotAfter, Renews: e.Renews})
	}
	slices.SortStableFunc(c.Expiries, func(x, y Expiry) int { return x.NotAfter.Compare(y.NotAfter) })
	return yes(c)
}

// file is an answer that is a file of PEM.
type file struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func pemFile(text []byte) *file { return &file{ContentType: "application/x-pem-file", Body: text} }

func (s *Server) showRoot(context.Context, *struct{}) (*file, error) {
	a, err := s.authority()
	if err != nil {
		return nil, err
	}
	return pemFile(a.Root()), nil
}

func (s *Server) showCRL(context.Context, *struct{}) (*file, error) {
	a, err := s.authority()
	if err != nil {
		return nil, err
	}
	text, err := a.CRLPEM()
	if err != nil {
		return nil, s.fault(fmt.Errorf("revocation list: %w", err))
	}
	return pemFile(text), nil
}
