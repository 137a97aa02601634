# The commands a newcomer needs. `make` alone lists them.

# Where the set-up puts what it fetches; a library of your own may stand in for the runtime's.
export PACKHORSE_ONNXRUNTIME ?= $(CURDIR)/.cache/onnxruntime/1.31.1/libonnxruntime.so
export PACKHORSE_TENSORFLOW ?= $(CURDIR)/.cache/tensorflow/2.21.0/libtensorflow_cc.so.2
export PACKHORSE_TORCH ?= $(CURDIR)/.cache/torch/1.13.1/libpackhorse_torch.so
export PYTHONDONTWRITEBYTECODE = 1
# ONNX Runtime's builds for Linux report what they run unless they are told not to.
export ORT_DISABLE_TELEMETRY = 1
# A build that is thrown away afterwards gains nothing from the incremental cache.
ifeq ($(CI),true)
export CARGO_INCREMENTAL = 0
endif

STEP = @scripts/step.sh
PACKHORSE = target/release/packhorse
PYTHON = .cache/venv-clients/bin/python
MODELS = .cache/bench
PACKED = $(MODELS)/packing

.PHONY: help setup demo test chaos fuzz bench bench-packing bench-video bench-ranges bench-cores bench-models lint build test-rust test-python test-release

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile

setup: ## find or fetch what the rest needs; offline after the first time
	@scripts/setup.sh

demo: setup build ## detect people and vehicles in the bundled clip, from queue to annotated video
	$(STEP) 'demo' $(PACKHORSE) demo --out packhorse-demo

# On a machine that has nothing yet, what is fetched comes while clippy compiles what everything stands on.
test: ## every check that a change must pass
	@scripts/setup.sh
	@scripts/meanwhile.sh 'scripts/setup.sh test' $(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test-rust test-python

test-release: build ## the Python tests once more, with the release binary
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory test-python TESTED=$(PACKHORSE)

chaos: build ## kill thirty workers over two hundred videos, on services that fail
	@scripts/setup.sh test
	$(STEP) 'chaos' env CHAOS=full PACKHORSE_BINARY=$(CURDIR)/$(PACKHORSE) $(PYTHON) tests/python/run.py test_chaos

SECONDS ?= 30
fuzz: ## look for what breaks the readers of untrusted bytes, SECONDS each (30)
	@scripts/setup.sh
	$(STEP) 'fuzz' scripts/fuzz.sh $(SECONDS) $(READERS)

bench: build bench-models ## measure against the floor of this machine
	@scripts/setup.sh packing
	$(STEP) 'bench' $(PACKHORSE) bench --peer '.cache/venv-packing/bin/python scripts/packing/peers.py'
	$(STEP) 'bench: many models' $(PYTHON) scripts/bench_fleet.py $(PACKHORSE) $(MODELS)/mlp.onnx
	$(STEP) 'bench: texts' $(PYTHON) scripts/bench_text.py $(PACKHORSE) .cache/all-minilm-l6-v2
	$(STEP) 'bench: beside texts and pictures' $(PYTHON) scripts/bench_beside.py $(PACKHORSE) $(MODELS)/mlp.onnx $(MODELS)/convnet.onnx crates/pipeline/tests/fixtures/text

# What the models that share nothing may take of the disk: 3,000 of them take 51.
GB ?= 52
bench-packing: build bench-models ## thousands of models on this machine, beside plain sessions and FastAPI
	@scripts/setup.sh packing
	$(STEP) 'bench: packing' .cache/venv-packing/bin/python scripts/bench_packing.py $(PACKHORSE) $(PACKED) --gb $(GB)

bench-video: build ## the video worker beside frames as JSON to a model server, by choices of frames, and over two hours
	@scripts/setup.sh video
	$(STEP) 'bench: video' .cache/venv-video/bin/python scripts/bench_video.py $(PACKHORSE) assets/person_ssdlite_odapi.onnx \
		assets/person.txt assets/street.mp4

bench-ranges: build ## a video elsewhere, read while it is decoded, beside a copy that is fetched first
	$(STEP) 'bench: ranges' $(PYTHON) scripts/bench_ranges.py $(PACKHORSE) assets/nanodet_g_coco80.onnx assets/coco80.txt

bench-cores: build ## how answers a second grow with the cores of a server, beside the bare runtime on as many
	@scripts/setup.sh packing
	$(STEP) 'bench: cores' .cache/venv-packing/bin/python scripts/bench_cores.py $(PACKHORSE) assets/bert_tiny_qa.onnx \
		assets/nanodet_g_coco80.onnx

bench-models: ## the models that 'make bench' measures with, made once
	@scripts/setup.sh test
	@mkdir -p $(MODELS)
	@test -f $(MODELS)/bert_base_qa.onnx || scripts/step.sh 'a model of BERT-base shape' $(PYTHON) scripts/make_bert.py $(MODELS)/bert_base_qa.onnx
	@test -f $(MODELS)/resnet18.onnx || scripts/step.sh 'a ResNet-18' $(PYTHON) scripts/make_resnet18.py $(MODELS)/resnet18.onnx
	@test -f $(MODELS)/convnet.onnx || scripts/step.sh 'a model of two milliseconds' $(PYTHON) scripts/make_convnet.py $(MODELS)/convnet.onnx
	@test -f $(MODELS)/mlp.onnx || scripts/step.sh 'a model of three microseconds' $(PYTHON) scripts/make_mlp.py $(MODELS)/mlp.onnx
	@test -d $(MODELS)/fleet || scripts/step.sh 'two hundred small models' $(PYTHON) scripts/make_fleet.py $(MODELS)/fleet

lint: ## formatting, clippy and the house rules
	$(STEP) 'lint: format' cargo fmt --all --check
	$(STEP) 'lint: clippy' cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(STEP) 'lint: house rules' cargo run --quiet --package xtask -- tidy
	$(STEP) 'lint: generated code' cargo run --quiet --package xtask -- codegen --check
	@if command -v cargo-deny >/dev/null; then scripts/step.sh 'lint: dependencies' cargo deny --offline check bans licenses sources; \
	else echo '== lint: dependencies: skipped, cargo-deny is not installed (cargo install cargo-deny)' >&2; fi

build: ## the release binary
	$(STEP) 'build' cargo build --release --package packhorse

test-rust: ## unit and integration tests of the crates
	$(STEP) 'test: crates' cargo test --quiet --workspace

# Compiled by the tests of the crates already, and it checks itself for overflow; a release build takes as long again.
TESTED ?= target/debug/packhorse
test-python: ## the binary against independent references and public clients
	$(STEP) 'test: build' cargo build --quiet --package packhorse
	$(STEP) 'test: clients and references' env PACKHORSE_BINARY=$(CURDIR)/$(TESTED) $(PYTHON) tests/python/run.py
