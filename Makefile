# `make run` and `make test` do everything from a fresh machine on, and only what is not done yet.

PREFIX ?= $(HOME)/.local
MAC := $(filter Darwin,$(shell uname -s))
# On a Mac the engine is the system's: what serves QEMU's devices is for Linux.
SERVERS := $(if $(MAC),,-p vmette-virtiofsd -p vmette-vsockd)
BUILD = cargo build --release --locked -p vmette-cli $(SERVERS)
TARGET := $(or $(CARGO_TARGET_DIR),target)
# A shell that did not log in has no Cargo in its PATH, nor one that has just installed it.
# The make of a Mac looks commands up in the PATH that it was started with, unless a shell other than its own does it.
SHELL := bash
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup build run test vz-check sign universal bench dist audit install clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing to build and run; sudo only for apt-get, and it says so
	@scripts/setup

build: setup ## Build in release mode
	$(BUILD)

run: $(if $(MAC),sign,build) ## Do real work in a machine and show what it can and cannot reach
	@scripts/demo $(TARGET)/release/vmette

test: ## Install what the tests need as well, and run every check and test
	@scripts/setup test
	@scripts/test

vz-check: ## Check the engine of macOS on Linux, and run it on a stand-in for the system's frameworks
	@scripts/setup test
	@scripts/vz-check

sign: build ## On a Mac: give the built program the entitlement that machines need
	@scripts/sign $(TARGET)/release/vmette

universal: setup ## On a Mac: build for both of Apple's processors in one program, and sign it
	@scripts/universal

bench: setup ## Measure against the same kernel in plain QEMU and against other sandboxes
	$(BUILD) -p vmette-bench
	@scripts/bench

dist: setup ## Build a release for any Linux on this kind of processor: target/dist
	@scripts/dist

audit: ## Look the dependencies up among the known vulnerabilities (needs a network)
	@scripts/setup test
	cargo deny --locked check advisories

install: setup ## Install command, C library and header to PREFIX, ~/.local unless given; SUDO=sudo where it takes root
	$(BUILD) -p vmette-capi
	$(SUDO) env DESTDIR="$(DESTDIR)" scripts/install $(TARGET)/release "$(PREFIX)"

clean: ## Remove what was built; the cache of kernels and templates stays
	cargo clean
