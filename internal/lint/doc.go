// Package lint holds the house rules as tests: which package may import which,
// what must be documented, which calls are forbidden and what to write instead,
// which statements of the standards may be cited. Begin with layers_test.go: it
// is the architecture as data.
//
// The tests parse the sources themselves. A test that asks the go command is
// answered from the test cache and stays green after a rule was broken; files
// that a test opens are part of its cache key.
package lint
