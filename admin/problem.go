package admin

import (
	"encoding/json"
	"net/http"
)

// Problem is the answer to what is refused, or can't be done [RFC 9457].
type Problem struct {
	Status int    `json:"status" doc:"The HTTP status."`
	Title  string `json:"title" doc:"What the status means."`
	Detail string `json:"detail" doc:"What is wrong here, and what was expected."`
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of a problem.
func (p *Problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

func problem(status int, err error) *Problem {
	return &Problem{Status: status, Title: http.StatusText(status), Detail: err.Error()}
}

// refuse answers beside huma.
func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(status)
	// Who has gone meanwhile needs no answer.
	_ = json.NewEncoder(w).Encode(problem(status, err))
}
