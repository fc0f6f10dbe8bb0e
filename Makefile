# The project's commands; `make help` lists them.
GO ?= go
FUZZTIME ?= 30s

.PHONY: help test check soak bench cover fuzz golden examples lint

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

test: ## run the tests that this machine and user can run
	$(GO) test -timeout 20m ./...

check: ## all that CI runs; installs what it needs (root, Debian)
	bash .ci/run

soak: ## the random tests 300 times each
	INLAY_SOAK=1 $(GO) test -timeout 120m ./...

bench: ## launch times beside os/exec and C on raw system calls
	$(GO) run ./bench

cover: ## coverage of the tests, as cover.out and a total
	$(GO) test -coverprofile=cover.out -coverpkg=./container,./rootfs,./namespace,./security,./cgroup,./internal/plan,./internal/launcher ./...
	$(GO) tool cover -func=cover.out | tail -n 1

fuzz: ## every fuzz target for FUZZTIME
	bash .ci/run fuzz

golden: ## rewrite the golden files
	$(GO) test ./container -run 'Golden|Staged' -update

examples: ## run the first example
	$(GO) run ./examples/run -- sh -c 'id; hostname; ls /'

lint: ## golangci-lint, at the version pinned in tools/go.mod
	bash .ci/run lint
