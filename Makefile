# Every target is one line here and one script in tools/, which can be run by itself.
# What is built or fetched is kept in $XDG_CACHE_HOME/zta (~/.cache/zta), outside the clone;
# CARGO_TARGET_DIR is honoured where it is set.

.DEFAULT_GOAL := help
.PHONY: help demo run test test-newest check bench bench-compare proto install-tools

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## build, run real agents against a real server, verify the record, stop
	@tools/install-tools.sh demo
	@tools/demo.sh

run: ## the server on an embedded store; stays up until ^C
	@tools/install-tools.sh build
	@tools/run.sh

test: ## everything: check, then all Rust and Python tests on both databases
	@tools/install-tools.sh test
	@tools/with-postgres.sh tools/test.sh

test-newest: ## the contract of the Python guards with the newest versions of the agent frameworks
	@client-py/tools/test-newest.sh

check: ## format, lints, docs, dependency rules, protos; no tests
	@tools/install-tools.sh check
	@tools/check.sh

bench: ## every figure of the decision engine, beside a no-op server in the same run; writes target/bench.json
	@tools/install-tools.sh bench
	@tools/with-postgres.sh tools/bench.sh

bench-compare: ## Cerbos (fetched from npm) beside ZTA with the same workload; adds to target/bench.json
	@tools/install-tools.sh build
	@tools/bench-compare.sh

proto: ## lint the protos and generate what is committed of them
	@tools/install-tools.sh check
	@tools/proto.sh

install-tools: ## install or build what the other targets need
	@tools/install-tools.sh test
