// Package crash kills the broker, hundreds of times, and holds what clients saw
// against what they were promised. Nothing in it knows the broker's code: it
// starts the built command, talks to it over sockets and ends it with SIGKILL.
//
// A seed makes a [scenario]: who takes part and when the broker dies. A [round]
// plays it and writes down every event. [judge] reads those events, and only
// those, and says which promise was broken: begin there, it is the model.
// main_test.go makes a command of it; `make crash` runs that.
package crash
