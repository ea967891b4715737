// Package conformance holds one test for each normative statement of MQTT 3.1.1
// and 5.0 that binds a Server and can be seen from outside. The tests speak bytes
// over a socket and share no code with the broker.
//
// Begin with testdata/v*.txt: conversations, each with the ids of the statements
// it covers. script_test.go says how to read them. Statements without a test are
// listed in testdata/notes.tsv with the reason. docs/conformance.md is generated
// from both:
//
//	go test ./conformance -run TestDocs -update
//
// FAIRLEAD_CONFORMANCE_ADDR=host:port sends the same conversations to another
// broker by TCP.
package conformance
