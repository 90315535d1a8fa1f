# What a developer repeats. `make demo` and `make test` are the two commands; each installs what is missing first.

CARGO ?= cargo
# One folder for everything that is built.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# The kernel of the virtual machines of `make demo`, `make test` and `make test-nic`, and the FRR that a test has on a node, are fetched once
# for all clones on a machine.
cache := $(or $(XDG_CACHE_HOME),$(or $(HOME),/root)/.cache)/millrace
export MILLRACE_KERNEL := $(abspath $(or $(MILLRACE_KERNEL),$(cache)/kernel))
export MILLRACE_FRR := $(abspath $(or $(MILLRACE_FRR),$(cache)/frr))
# How long `make fuzz` runs, and the short run that is part of `make test`, in seconds for all targets together.
FUZZ_SECONDS ?= 3600
FUZZ_SHORT_SECONDS ?= 30
# The parts of the bench, in the order in which they are measured.
BENCH_PARTS := memory services policies flows tables veth
BENCH_FULL_PARTS := chain dpdk idle scale spread storms iperf
SCRIPTS := .ci/run tools/install-deps.sh tools/suite.sh tools/kernel.sh tools/frr.sh tools/api-server.sh tools/validate-manifests.sh tools/src/lab/machine/init.sh tests/fuzz/run.sh tests/netns/calico/node.sh
# Where a real API server is built and run.
API_SERVER := $(CARGO_TARGET_DIR)/api-server
# Cargo workspaces with a lock file of their own.
MANIFESTS := Cargo.toml tests/fuzz/Cargo.toml tests/loom/Cargo.toml

.DEFAULT_GOAL := help
.PHONY: help demo demo-cluster test test-api test-nic test-nic-long lint bench bench-full fuzz fuzz-short loom install-deps clean root fmt-check lock-check deny manifests

help:
	@echo 'make demo          three dual-stack nodes in network namespaces, traffic between all their pods, a virtual machine (as root)'
	@echo 'make demo-cluster  the same with objects of a real API server, which goes and comes back (as root)'
	@echo 'make test          every test, those with real interfaces included (as root)'
	@echo 'make test-nic      the switch on a NIC with queues, zero-copy too, in a virtual machine (as root)'
	@echo 'make test-nic-long the same in every setting, all that may happen to the NIC in most of them'
	@echo 'make test-api      the client of the API server against a real one, which is built first: many minutes'
	@echo 'make lint          format, clippy, docs, licences, scripts'
	@echo 'make bench         packets through memory and over veth, under 15 minutes (as root)'
	@echo 'make bench-full    beside others, at scale and at rest, under 30 minutes (as root)'
	@echo 'make fuzz          every fuzzer, FUZZ_SECONDS=$(FUZZ_SECONDS) in all'
	@echo 'make fuzz-short    the same for $(FUZZ_SHORT_SECONDS) seconds'
	@echo 'make loom          the models of concurrent code'
	@echo 'make install-deps  the Debian packages that all of this needs'
	@echo 'make clean         remove what was built'

root:
	@[ "$$(id -u)" = 0 ] || { echo 'Network namespaces and AF_XDP need root: sudo -E make $(MAKECMDGOALS)' >&2; exit 1; }

install-deps:
	@tools/install-deps.sh all

demo: root
	@tools/install-deps.sh demo
	@tools/kernel.sh "$$MILLRACE_KERNEL"
	$(CARGO) build --locked --release -p millrace -p millrace-tools -p millrace-cni
	"$$CARGO_TARGET_DIR/release/millrace-lab" demo

# Against the server that MILLRACE_TEST_API, MILLRACE_TEST_API_TOKEN and MILLRACE_TEST_API_CA name, else one that is built.
demo-cluster: root
	@tools/install-deps.sh api
	$(if $(MILLRACE_TEST_API),,tools/api-server.sh build "$(API_SERVER)")
	$(CARGO) build --locked --release -p millrace -p millrace-tools -p millrace-cni
	tools/api-server.sh run "$(API_SERVER)" "$$CARGO_TARGET_DIR/release/millrace-lab" demo --api

# What only a server of its own can be asked to do (stop, forget, show its log) is left out with one that is named.
test-api:
	@tools/install-deps.sh api
	$(if $(MILLRACE_TEST_API),,tools/api-server.sh build "$(API_SERVER)")
	$(CARGO) test --locked -p millrace --test cluster_api --no-run
	tools/api-server.sh run "$(API_SERVER)" $(CARGO) test --locked -p millrace --test cluster_api -- anywhere::
	$(if $(MILLRACE_TEST_API),,tools/api-server.sh run "$(API_SERVER)" \
	    $(CARGO) test --locked -p millrace --test cluster_api -- real:: --ignored --test-threads=1)

test: root
	@tools/install-deps.sh test
	@tools/kernel.sh "$$MILLRACE_KERNEL"
	@tools/frr.sh "$$MILLRACE_FRR"
	$(CARGO) test --locked --workspace --no-fail-fast
	@$(MAKE) --no-print-directory loom
	@$(MAKE) --no-print-directory fuzz-short

# The tests find the programs they put into the machine beside themselves.
test-nic-long: NIC_TESTS := --ignored
test-nic test-nic-long: root
	@tools/install-deps.sh nic
	@tools/kernel.sh "$$MILLRACE_KERNEL"
	$(CARGO) build --locked --workspace --bins --test nic
	$(CARGO) test --locked --workspace --test nic -- --nocapture --test-threads=1 $(NIC_TESTS)

loom:
	RUSTFLAGS='--cfg crossbeam_loom' $(CARGO) test --locked --release --manifest-path tests/loom/Cargo.toml \
	    --target-dir "$$CARGO_TARGET_DIR/loom"

fuzz:
	@tools/install-deps.sh build
	tests/fuzz/run.sh $(FUZZ_SECONDS)

fuzz-short:
	@tools/install-deps.sh build
	tests/fuzz/run.sh $(FUZZ_SHORT_SECONDS)

# A part that fails does not keep the others from being measured and reported.
bench: PARTS := $(BENCH_PARTS)
bench-full: PARTS := $(BENCH_FULL_PARTS)
bench bench-full: root
	@tools/install-deps.sh $@
	$(CARGO) build --locked --release --workspace
	@bench="$$CARGO_TARGET_DIR/release/millrace-bench --output $$CARGO_TARGET_DIR/bench/summary.json"; failed=; \
	for part in $(PARTS); do \
	    echo "bench: $$part"; \
	    $$bench $$part || failed="$$failed $$part"; \
	done; \
	$$bench report && \
	[ -z "$$failed" ] || { echo "bench: failed:$$failed" >&2; exit 1; }

lint: fmt-check lock-check
	@tools/install-deps.sh lint
	shellcheck -x $(SCRIPTS)
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked -p millrace --test nic -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@$(MAKE) --no-print-directory deny manifests

fmt-check:
	$(foreach manifest,$(MANIFESTS),$(CARGO) fmt --all --manifest-path $(manifest) -- --check &&) true

# A lock file that is not up to date is one that was not tested.
lock-check:
	@$(foreach manifest,$(MANIFESTS),$(CARGO) metadata --locked --format-version 1 --manifest-path $(manifest) >/dev/null &&) true

# Licences, sources and duplicates; known holes too where the database of advisories can be fetched.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || env -u CARGO_TARGET_DIR $(CARGO) install --locked cargo-deny
	$(CARGO) deny check --hide-inclusion-graph bans licenses sources
	@if $(CARGO) deny fetch db >/dev/null 2>&1; then \
	    $(CARGO) deny check --hide-inclusion-graph advisories; \
	else \
	    echo 'deny: the database of advisories cannot be fetched from here; known holes are not looked for' >&2; \
	fi

# Manifests against the schemas of Kubernetes; `cargo test --test deploy` reads them by its types, without fetching anything.
manifests:
	@tools/validate-manifests.sh "$$CARGO_TARGET_DIR/kubernetes-validate" deploy/millrace.yaml deploy/load-balancer.yaml deploy/uninstall.yaml $(wildcard examples/ingress/*.yaml)

clean:
	$(CARGO) clean
