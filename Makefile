# Holdfast. `make` alone prints this help; the two commands to begin with are
# `make demo` and `make test`. Both install what they need and want root.

GO      ?= go
BIN     := bin/holdfast
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -buildid= -X main.version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)"

# Packages of the whole-system tests run one after the other, so that they
# have the machine for themselves.
UNIT := $(shell $(GO) list ./... 2>/dev/null | grep -v /test/)

# The package starts etcd as a service, which nobody asked for here.
ETCD := command -v etcd >/dev/null || { apt-get install -y --no-install-recommends etcd-server && { systemctl disable --now etcd 2>/dev/null || true; }; }

.DEFAULT_GOAL := help
.PHONY: help demo test build bench bench-state bench-wal sim sim-rows model mutants chaos fuzz generate lint setup root verify-generated unit system proof

help: ## print this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup build ## two gateways, a witness and a client in namespaces; every fault, gaps and doubles
	$(GO) run ./test/demo -binary $(BIN) -profile $(or $(PROFILE),all)

test: setup lint verify-generated unit system proof ## every test (root)

build: ## the static binary bin/holdfast
	$(BUILD) -o $(BIN) ./cmd/holdfast

bench: setup build ## failover times beside keepalived, and bench-state, written to docs/benchmarks.md (N=rounds)
	@command -v keepalived >/dev/null || apt-get install -y --no-install-recommends keepalived
	@$(ETCD)
	$(GO) run ./test/bench -binary $(BIN) -n $(or $(N),20) -out docs/benchmarks.md

bench-state: setup build ## durable state beside etcd and other logs, 12 minutes (QUICK=1: 2 minutes, printed only)
	@$(ETCD)
	$(GO) run ./test/bench -binary $(BIN) -part state $(if $(QUICK),-quick -out "",-out docs/benchmarks.md)

bench-wal: build ## the write-ahead log beside others, printed only (QUICK=1: little of it)
	$(GO) run ./test/bench -binary $(BIN) -part wal $(if $(QUICK),-quick)

sim: ## simulated clusters, SEEDS=N lives of one (default 10000), SEED=first
	$(GO) run ./test/sim/cmd -seeds $(or $(SEEDS),10000) -first $(or $(SEED),1)

sim-rows: ## the rows of the table of times, simulated, SEEDS=N lives each (default 200)
	$(GO) run ./test/sim/cmd -rows -seeds $(or $(SEEDS),200)

model: ## the rules of grants alone: all states within bounds, and RUNS=N random runs (default 10,000,000)
	$(GO) run ./test/model -runs $(or $(RUNS),10000000)

mutants: setup ## known bugs, put back one by one: each must be caught (15 minutes; ONLY=NAME)
	$(GO) run ./test/mutants $(if $(ONLY),-only $(ONLY),-all -out docs/proof.md)

chaos: setup build ## real daemons under random faults for MINUTES (or ROUNDS), zero violations or it fails
	$(GO) run ./test/chaos -binary $(BIN) -minutes $(or $(MINUTES),10) $(if $(PROFILE),-profile $(PROFILE)) -rounds $(or $(ROUNDS),0) -seed $(or $(SEED),0) -report docs/proof.md

fuzz: ## every fuzz target for an equal share of MINUTES (default 15; ONLY=PATTERN)
	GO="$(GO)" MINUTES=$(or $(MINUTES),15) ONLY='$(ONLY)' ./test/fuzz.sh

generate: ## the BPF objects, with the clang named in bpf/CLANG_VERSION
	$(GO) generate ./bpf

lint: ## gofmt, go vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt would change: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

setup: root
	@./test/setup.sh

root:
	@test "$$(id -u)" = 0 || { echo "needs root: namespaces, BPF and raw sockets; hint: sudo make $(MAKECMDGOALS)"; exit 1; }

verify-generated:
	@./test/verify-generated.sh

unit:
	$(GO) test -race -shuffle=on -count=1 -timeout 15m $(UNIT)

system: build
	HOLDFAST_BIN=$(CURDIR)/$(BIN) $(GO) test -shuffle=on -count=1 -p 1 -timeout 30m ./test/...

# What chance decides, in doses that a test run can afford.
proof:
	$(GO) run ./test/sim/cmd -seeds 2000
