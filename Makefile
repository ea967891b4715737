# Fairlead: `make` lists the targets. Each installs what it needs and says so.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -X fairlead/cli.version=$(VERSION)
# -buildvcs=false: the version is set above, and a clone owned by another user must build too.
GO_BUILD  := go build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)'

FUZZTIME  ?= 60s
TIME      ?= 10m
# Of the first round of `make crash`; 0 takes one from the clock.
SEED      ?= 0
CRASH_ARGS ?=
BENCHTIME ?= 1s
# The load generator of the first part of `make bench` is kept outside this repository.
BENCH_DIR ?= ../shared/bench
# For example BENCH_ARGS='-dir /mnt/disk -repeat 3'; all of them: BENCH_ARGS=-help.
BENCH_ARGS ?=
BENCHREPORT := go run ./internal/tools/benchreport -bench-dir $(BENCH_DIR)
# Called by its version and kept out of go.mod: nothing that ships depends on it.
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What holds state that goroutines share.
RACE_PACKAGES := ./mqtt/... ./listen/... ./config/... ./document/... ./policy/... ./ca/... ./acme/... ./auth/... ./audit/... ./device/... ./broker/... ./admin/... ./node/... ./client/... ./cli/...

.PHONY: help build run test check lint race fuzz crash bench bench-durable bench-scale bench-security benchmicro conformance cover shape setup clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

build: ## build bin/fairlead
	$(GO_BUILD) -o bin/fairlead ./cmd/fairlead

run: build ## build and start the broker: TLS, and nobody anonymous
	bin/fairlead serve

test: setup ## run every test (under 10 minutes on two cores)
	go test -count=1 -timeout 10m ./... # afresh: what starts the binary is not in Go's test cache

check: lint race test ## exactly what CI runs: lint, race, test

lint: ## go vet, gofmt, staticcheck and the house rules (internal/lint)
	go vet ./...
	go test ./internal/lint
	$(STATICCHECK) ./...

race: ## the packages that share state, under the race detector
	@internal/tools/setup.sh race
	go test -race -timeout 10m $(RACE_PACKAGES)

fuzz: ## every fuzz target in turn, FUZZTIME=60s each
	@internal/tools/fuzz.sh $(FUZZTIME)

crash: ## kill the broker again and again for TIME=10m and check every promise, from SEED=n
	@mkdir -p bin
	go test -c -o bin/crash ./test/crash
	bin/crash --time $(TIME) --seed $(SEED) $(CRASH_ARGS)

bench: build benchmicro ## every comparison with other brokers, into docs/performance.md (an hour)
	@internal/tools/setup.sh bench
	$(BENCHREPORT) $(BENCH_ARGS)

bench-durable: build ## of these, only the ones where nothing may be lost (half an hour)
	@internal/tools/setup.sh bench
	$(BENCHREPORT) -group durable,memory $(BENCH_ARGS)

bench-scale: build ## a million queued messages, absent clients and retained messages (BENCH_ARGS='-n 100000')
	$(BENCHREPORT) -group scale $(BENCH_ARGS)

bench-security: build ## what certificates, policies and revocation cost (five minutes)
	@internal/tools/setup.sh bench
	$(BENCHREPORT) -group security $(BENCH_ARGS)

benchmicro: ## the benchmarks beside the code, BENCHTIME=1s each
	@mkdir -p bench-results
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./mqtt/... ./broker/... ./listen/... | tee bench-results/micro.txt

conformance: ## one test per normative statement of the MQTT standards
	go test -count=1 ./conformance/...

cover: ## statement coverage per package, and coverage.html
	@mkdir -p bin
	go test -coverprofile=bin/cover.out -coverpkg=./... $$(go list ./... | grep -v -e /internal/tools -e /test/)
	go tool cover -func=bin/cover.out | tail -n 1
	go tool cover -html=bin/cover.out -o bin/coverage.html

shape: ## sizes of files, functions and packages against what we grow towards
	@go run ./internal/tools/shape

setup: ## install what the tests need (said line by line)
	@internal/tools/setup.sh test

clean: ## remove what was built
	rm -rf bin bench-results
