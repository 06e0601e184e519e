# The commands for developers of skep. `make help` lists them; each target installs its own tools.

.DEFAULT_GOAL := help
.PHONY: help setup quick lint test fuzz model demo bench scale chaos package release clean
.NOTPARALLEL:

# The scripts, the tests and the lines below use the same directories, whatever the user's cargo settings are.
export CARGO_TARGET_DIR := $(CURDIR)/target
unexport CARGO_BUILD_TARGET

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install everything that the targets below need (each target also installs its own part)
	@scripts/setup.sh

quick: ## before every commit: formatting, clippy, unit, property and model tests
	@scripts/setup.sh quick
	@scripts/quick.sh

lint: ## formatting, clippy, dependency policy, shell scripts, units
	@scripts/setup.sh lint
	@scripts/lint.sh

test: ## all checks, tests and scenarios, on real daemons and booted instances (STAGES="units" TEST=word)
	@scripts/test.sh $(STAGES)

fuzz: ## feed changed rows, answers, settings and requests to skep, 15 minutes each (EACH=60 SEED=7 TEST=word)
	@scripts/setup.sh quick
	@$(if $(EACH),SKEP_FUZZ_SECONDS=$(EACH)) $(if $(SEED),SKEP_FUZZ_SEED=$(SEED)) scripts/fuzz.sh

model: ## check skep's protocols with a model checker for ten minutes (ARGS="--for 1h")
	@scripts/setup.sh model
	cargo run --quiet --locked --package skep-model -- $(ARGS)

demo: ## a fleet on this machine: nodes come and go behind a load balancer (needs root; asks sudo)
	@scripts/setup.sh demo
	@scripts/fleet.sh demo $(ARGS)

bench: ## measure skep beside the alternatives; fails if a target is missed (needs root; ARGS="--only boot,idle")
	@scripts/setup.sh bench
	@scripts/fleet.sh bench $(ARGS)

scale: ## a thousand instances boot at once, on engines that are played (needs root; N=1000 ARGS="--store ssm")
	@scripts/setup.sh scale
	@scripts/fleet.sh scale $(if $(N),--nodes $(N)) $(ARGS)

chaos: ## a fault campaign on real daemons (needs root; ROUNDS=10 SEED=1 PROFILE=hard ARGS="--experiments")
	@scripts/setup.sh demo
	@scripts/fleet.sh chaos $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

package: ## the Debian and RPM packages, in target/package
	@scripts/setup.sh package
	@scripts/package.sh

release: ## everything that is published of a version, signed, in target/release-files (RELEASE_KEY=fingerprint)
	@scripts/setup.sh release
	@scripts/release.sh $(ARGS)

clean: ## remove everything built or installed here; Debian packages stay
	rm -rf target .venv
