# Every target sets up what it needs in .venv or .venv-serving, once: see dev/setup.
MAKEFLAGS += --no-print-directory
PY := .venv/bin/python
TASK := SimpleDoorKey
# Two threads on shared cores are slower than one for networks of this size.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test test-serving test-browser test-package test-interop test-ray test-warp test-image test-gpu lint learn bench bench-peers bench-gpu docs clean
.PHONY: setup setup-dev serve-setup

help:
	@echo "make demo    a language model teaches an agent $(TASK), then the agent plays without it (minutes)"
	@echo "make test    style, types and tests"
	@echo "make lint    style and types"
	@echo "make serve-setup   installs vLLM and FastChat in .venv-serving (minutes, 3 GB)"
	@echo "make test-serving  tests against the real vLLM and FastChat"
	@echo "make test-browser  the labelling page in Chromium (apt-get install chromium)"
	@echo "make test-package  the wheel in an empty environment, as docs/ten-minutes.md has it (minutes, 2 GB)"
	@echo "make test-interop  other people's tools on our environments, data and server (minutes)"
	@echo "make test-ray      grids and agents on a cluster of Ray whose nodes are killed (minutes)"
	@echo "make test-warp     mazes of MuJoCo Warp beside MuJoCo's, on the processor (minutes, 400 MB)"
	@echo "make test-image    the image of serving/deploy, built and killed while it serves an agent; needs podman (minutes, 2 GB)"
	@echo "make test-gpu    grids, mazes and learners on a GPU beside the CPU's, and their speed; fails where there is none"
	@echo "make bench-gpu   the same, and what a GPU is worth to training"
	@echo "make docs    the documentation as a web site, in site/"
	@echo "make learn   the slow checks: all seeds, all tasks"
	@echo "make bench   measurements against peers, as ratios"
	@echo "make bench-peers  grids, PPO and SAC beside JAX programs, which it installs in .venv-bench (minutes, 2 GB)"
	@echo "make clean   removes caches and environments; runs in log/ stay"

# A demo that was interrupted goes on where it was; one that is complete is judged again.
demo: setup
	$(PY) main.py train --method ihac --task $(TASK) --savedir demo --resume
	$(PY) main.py eval --method ihac --task $(TASK) --loaddir demo \
	  --compare teacher,student,controller,scripted,random --video 3
	@echo "curves: $(PY) -m tensorboard.main --logdir log     video: log/ihac/$(TASK)/demo/videos"

test: lint
	$(PY) -m pytest -n 2 -m "not learn and not serving and not browser and not package and not interop and not ray and not warp"

lint: setup-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test-serving: setup-dev serve-setup
	$(PY) -m pytest -m serving tests/serving

test-browser: setup-dev
	$(PY) -m pytest -m browser tests/browser

test-package: setup-dev
	$(PY) -m pytest -m package tests/package

test-interop: setup-dev
	@dev/setup requirements-interop.txt
	$(PY) -m pytest -m interop tests/interop

test-ray: setup-dev
	@dev/setup requirements-ray.txt
	$(PY) -m pytest -m ray tests/cluster

test-warp: setup-dev
	@dev/setup requirements-warp.txt
	$(PY) -m pytest -m warp tests/unit/test_gpu_mazes.py

test-image: setup
	dev/image

test-gpu: setup-dev
	$(PY) -m dev.gpu
	$(PY) -m dev.gpu_learning
	@dev/setup requirements-warp.txt
	$(PY) -m dev.gpu_mazes

learn: setup-dev
	$(PY) -m pytest -m learn

bench: setup-dev
	@for file in bench/[a-z]*.py; do $(PY) -m bench.$$(basename $$file .py) || exit 1; done

bench-peers: setup-dev
	@dev/setup requirements-bench.txt
	$(PY) -m bench.peers

bench-gpu: test-gpu
	$(PY) -m bench.device

# Strict: a page, picture or link that is missing fails. Nothing is fetched from the network.
docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

clean:
	rm -rf site .venv .venv-serving .venv-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@dev/setup requirements.txt

setup-dev:
	@dev/setup requirements-dev.txt

serve-setup:
	@dev/setup requirements-serving.txt
