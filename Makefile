# `make run` and `make test` do everything from a fresh machine on, and only what is not done yet.

PREFIX ?= $(HOME)/.local
TARGET := $(or $(CARGO_TARGET_DIR),target)
# A shell that did not log in has no Cargo in its PATH, nor one that has just installed it.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup build run test bench audit install clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing to build and run; sudo only for apt-get, and it says so
	@scripts/setup

build: setup ## Build in release mode
	cargo build --release --locked --workspace --exclude xtask

run: build ## Do real work in a machine and show what it can and cannot reach
	@scripts/demo $(TARGET)/release/vmette

test: ## Install what the tests need as well, and run every check and test
	@scripts/setup test
	@scripts/test

bench: build ## Measure against the same kernel in plain QEMU and against other sandboxes
	@scripts/bench

audit: ## Look the dependencies up among the known vulnerabilities (needs a network)
	@scripts/setup test
	cargo deny --locked check advisories

install: build ## Install vmette to PREFIX, ~/.local unless given; SUDO=sudo for a folder that is not yours
	$(SUDO) install -D -m 755 $(TARGET)/release/vmette $(DESTDIR)$(PREFIX)/bin/vmette
	$(SUDO) install -D -m 755 $(TARGET)/release/vmette-virtiofsd $(DESTDIR)$(PREFIX)/libexec/vmette/vmette-virtiofsd
	$(SUDO) install -D -m 755 $(TARGET)/release/vmette-vsockd $(DESTDIR)$(PREFIX)/libexec/vmette/vmette-vsockd

clean: ## Remove what was built; the cache of kernels and templates stays
	cargo clean
