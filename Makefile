# Everything goes through `build`, which is quick when nothing changed. `. ./env.sh` enters the same
# environment by hand.
SHELL := /bin/bash
ENTER := . ./env.sh &&
PYTEST_ARGS ?=
# nproc would take OMP_NUM_THREADS for the number of cores.
WORKERS ?= $(shell env -u OMP_NUM_THREADS nproc)
BAG ?=
MINUTES ?= 3

DISTRO ?=

.PHONY: help build build-demo test test-distribution test-slow soak lint lint-docker format demo docs clean

help:
	@echo "make build            environment, ROS interfaces and env.sh"
	@echo "make test             lint, then the quick tests   (PYTEST_ARGS='-k images' WORKERS=0)"
	@echo "make test-distribution DISTRO=/opt/ros/kilted    build and test in a ROS distribution"
	@echo "make test-slow        the tests that take minutes"
	@echo "make soak             the node under faults for MINUTES=3; fails when anything grows"
	@echo "make lint             ruff, format check and mypy"
	@echo "make lint-docker      hadolint, the compose file and the workflow against their specifications"
	@echo "make format           let ruff rewrite what it can"
	@echo "make demo [BAG=...]   node and player as processes; products in out/demo"
	@echo "make docs             the documents as a site in out/site; a link that leads nowhere is an error"
	@echo "make clean            remove build products, keep .venv"

build:
	@tools/ros/bootstrap.sh

# Less to fetch than for `build`; what that has installed stays.
build-demo:
	@tools/ros/bootstrap.sh demo

lint: build
	$(ENTER) ruff check . && ruff format --check . && mypy

# As for the documents, an environment of its own.
out/docker_environment/ready: tools/requirements-docker.txt
	python3 -m venv out/docker_environment
	out/docker_environment/bin/python -m pip install --quiet --require-hashes -r $<
	touch $@

lint-docker: out/docker_environment/ready
	out/docker_environment/bin/hadolint docker/Dockerfile
	out/docker_environment/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	out/docker_environment/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml

format: build
	$(ENTER) ruff check --fix . && ruff format .

test: lint
	$(ENTER) GLD_REQUIRE_ROS=1 python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-distribution:
	@tools/ros/test_distribution.sh "$(DISTRO)"

test-slow: build
	$(ENTER) GLD_REQUIRE_ROS=1 python -m pytest -m slow $(PYTEST_ARGS)

soak: build
	$(ENTER) mkdir -p out && ROS_DOMAIN_ID=$${ROS_DOMAIN_ID:-86} python tools/soak.py --minutes $(MINUTES) --json out/soak.json 2> out/soak.log

demo: build-demo
	$(ENTER) gld-ros demo $(if $(BAG),--bag "$(BAG)")

# An environment of its own: nothing of the package is needed.
out/docs_environment/ready: tools/requirements-docs.txt
	python3 -m venv out/docs_environment
	out/docs_environment/bin/python -m pip install --quiet --require-hashes -r $<
	touch $@

docs: out/docs_environment/ready
	out/docs_environment/bin/mkdocs build --strict
	@echo "look at out/site/index.html"

clean:
	rm -rf build install log env.sh out .pytest_cache .mypy_cache .ruff_cache .hypothesis
