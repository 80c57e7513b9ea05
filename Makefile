# Shortcuts for the usual tasks. The gate itself is .ci/run.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
export VERSION COMMIT

.DEFAULT_GOAL := help
.PHONY: help build test lint run fuzz soak chaos chaos-forward image bench audit manifests snapshot up down vuln ci

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

build: ## the binary, ./versive-ingress
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' ./cmd/versive-ingress

test: ## all tests
	go test ./...

lint: ## go vet, staticcheck, and what gofumpt would change
	go vet ./...
	go tool staticcheck ./...
	@files=$$(go tool gofumpt -l .) && test -z "$$files" || { echo "not formatted: $$files"; exit 1; }

run: ## the demo: an ingress on an embedded broker, until Ctrl-C
	go run ./cmd/versive-ingress demo

# For another question: make bench ARGS='--preset sizes'. ARGS=--help lists the presets.
bench: ## measures the ingress against its references, into dist/bench
	go run ./cmd/versive-ingress-bench $(ARGS)

fuzz: ## every fuzz target for a minute
	.ci/fuzz 1m

soak: ## 100,000 events and three consumers that are killed at random; takes minutes
	go test -run 'TestSoak$$' -v -timeout 60m ./subscribe -soak.events 100000

audit: ## audits a million events with 20 faults of each kind, on both kinds of broker; takes minutes and 5 GB
	go test -run 'TestAudit$$' -v -timeout 60m ./cmd/versive-ingress -audit.events 1000000 -audit.faults 20

# Failing disks, power cuts and kills alone take some twenty minutes: make chaos FAULTS='disk-*'
SEEDS  ?= 20
SEED   ?= 1
FAULTS ?=
chaos: ## 20 seeds of every fault under load, for hours; as root, or with FAULTS=; SEEDS=, SEED= the first
	go test -run 'TestChaos$$' -v -timeout 12h ./cmd/versive-ingress -chaos.seeds $(SEEDS) -chaos.seed $(SEED) -chaos.faults '$(FAULTS)'

EVENTS ?= 100000
chaos-forward: ## two edges and a hub under faults, 20 seeds of 100,000 events, for hours; SEEDS=, SEED=, EVENTS=
	go test -run 'TestChaosForward$$' -v -timeout 24h ./cmd/versive-ingress -forward.seeds $(SEEDS) -forward.seed $(SEED) -forward.events $(EVENTS)

image: ## the container image, versive-ingress
	docker build --tag versive-ingress --build-arg VERSION --build-arg COMMIT .

up: ## the ingress and a NATS server; needs INGRESS_SECRETS
	$(COMPOSE) up --detach --build

# Compose requires the variable even to stop. The volumes, and so the events, stay.
down: ## stops what "up" started; the events stay
	INGRESS_SECRETS=unused $(COMPOSE) --profile cluster down

manifests: ## the Kubernetes manifests are valid by the API's schemas; the first time takes minutes
	.ci/kubernetes --validate

snapshot: ## what a release would be: binaries, checksums and SBOMs in dist, and the image
	go run github.com/goreleaser/goreleaser/v2@v2.15.1 release --snapshot --clean
	$(MAKE) image

vuln: ## known vulnerabilities (govulncheck; needs the network)
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...

ci: ## the whole gate, as in .ci/run
	.ci/run
