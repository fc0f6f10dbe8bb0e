# "make help" prints the targets with the comments behind them.
# TESTFLAGS goes to go test: make test TESTFLAGS='-run Memory -v'
# The core module is tested without its neighbours in a workspace, as its users
# get it.
export GOWORK := off
TESTFLAGS ?=
FUZZTIME ?= 30s
lint = go tool -modfile=tools/go.mod golangci-lint

.PHONY: help test check lint fmt soak bench cover fuzz golden examples

help: ## print this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1:\2/p' $(MAKEFILE_LIST) | awk -F: '{ t = $$1; sub(/^[^:]*:/, ""); printf "%-10s%s\n", t, $$0 }'

# One package after the other: a census counts what is on the whole machine.
test: ## run the tests; what this machine cannot run is skipped, with the reason
	go test -p 1 -timeout 20m $(TESTFLAGS) ./...

check: ## run all that CI runs (as root on Debian: installs packages, makes users, boots VMs)
	bash .ci/run

lint: ## find faults by golangci-lint, at the version that tools/go.mod pins
	$(lint) run ./...

fmt: ## rewrite the Go files as gofumpt and goimports have them
	$(lint) fmt ./...

soak: ## run the tests with many more rounds: failures, deaths, leaks; as root 104,000 launches too, over all ways to build
	INLAY_SOAK=1 go test -p 1 -count=1 -timeout 12h $(TESTFLAGS) ./...
	[ "$$(id -u)" != 0 ] || INLAY_STRESS_LAUNCHES=8000 bash .ci/run stress

bench: ## measure a start against fork and exec alone
	go run ./bench

# internal/rawproc runs after a fork without a Go runtime: its code may not
# count. A program that measures is none to be tested.
cover: ## run the tests and print the share of the statements that they reach
	go test -p 1 -timeout 20m -coverprofile=cover.out \
		-coverpkg=$$(go list ./... | grep -Ev '/(internal/rawproc|bench)$$' | paste -sd, -) $(TESTFLAGS) ./...
	go tool cover -func=cover.out | tail -n 1

fuzz: ## run each fuzz target for FUZZTIME (30s)
	bash .ci/fuzz $(FUZZTIME)

golden: ## rewrite the golden plans; review the difference
	go test -run Golden $$(grep -rl --include='*_test.go' '"update"' . | xargs -n 1 dirname | sort -u) -update

examples: ## build the example programs into bin, and test them
	mkdir -p bin
	go build -o bin/ ./examples/...
	go test $(TESTFLAGS) ./examples/...
