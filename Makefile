# Each target sets up what it needs: a virtual environment in .venv with the package installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TINY ?= tiny
LMMS_VENV ?= .venv-lmms
LMMS := $(LMMS_VENV)/bin/python
LMMS_INSTALLED := $(LMMS_VENV)/.installed
SITE_PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))

.PHONY: demo train-tiny measure-tiny test test-slow check compat compat-lowest lmms-eval bench bench-gpu bench-tradeoff bench-rooms bench-full-size bench-merge bench-training-memory clean
.DEFAULT_GOAL := demo

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing into $(VENV) (torch and torchvision: some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

## The tiny model that comes along, asked about a room that it has never seen: answers next to the truth, and pictures.
demo: OUT := demo_output
demo: $(INSTALLED)
	@rm -rf $(OUT)
	@$(BIN)/python examples/tiny_room.py $(OUT)

## That model from nothing: rooms, geometry, fine-tuning, GRPO. About three and a half hours of one core; goes on after a kill.
train-tiny: $(INSTALLED)
	@$(BIN)/python examples/train_tiny.py $(TINY)

## It against chance, its twin without geometry and itself, with three seeds: three hours more.
measure-tiny: $(INSTALLED)
	@$(BIN)/python benchmarks/tiny_rooms.py --folder $(TINY)

## All tests but the slow ones, on two processes.
test: $(INSTALLED)
	@$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"

test-slow: $(INSTALLED)
	@$(BIN)/python -m pytest -m slow

## Style, types, import directions.
check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_imports.py

## The smoke suite on each supported minor release of transformers, as a table; with -lowest, on the lowest alone.
compat: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python .ci/compat.py

compat-lowest: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python .ci/compat.py --lowest

## The package against a plain implementation of the published procedure, on the CPU: about half an hour on two cores.
bench: $(INSTALLED)
	@$(BIN)/python benchmarks/compare.py

## The same on an accelerator, at full size; says so where there is none.
bench-gpu: $(INSTALLED)
	@$(BIN)/python benchmarks/compare.py --device cuda

## What fewer and smaller candidates cost the sampler in coverage.
bench-tradeoff: $(INSTALLED)
	@$(BIN)/python benchmarks/sampling_tradeoff.py

## Memory of training at full size, for each layout and number of GPUs: a minute and a half.
bench-training-memory: $(INSTALLED)
	@$(BIN)/python benchmarks/training_memory.py

## Synthetic rooms: what frames and scenes cost.
bench-rooms: $(INSTALLED)
	@$(BIN)/python benchmarks/bench_rooms.py

## A full-size merge of random weights: two minutes, 26 GB of disk (FOLDER=... says where).
bench-merge: $(INSTALLED)
	@$(BIN)/python benchmarks/merge_full_size.py $(if $(FOLDER),--folder $(FOLDER))

## A full-size model with random weights on 4 frames: about 6 minutes and 12 GiB on two cores.
bench-full-size: $(INSTALLED)
	@$(BIN)/python benchmarks/full_size.py

# lmms-eval 0.7.3 says av<16 and this package av>=17: no resolver finds both. One after the other they go in, and work
# together; of all that is installed then, `pip check` finds fault with av alone. filelock 4 has lost a module that
# lmms-eval imports. torch and whatever else is there already is that of $(VENV), behind the environment's own packages.
$(LMMS_INSTALLED): $(INSTALLED)
	@$(BIN)/python -m venv --clear $(LMMS_VENV)
	@$(BIN)/python -c '$(SITE_PACKAGES)' > "$$($(LMMS) -c '$(SITE_PACKAGES)')/shared.pth"
	@echo "Installing lmms-eval into $(LMMS_VENV) (1 GB; pip will name the conflict about av twice) ..."
	@$(LMMS) -m pip install --quiet "lmms-eval==0.7.3" "filelock<4"
	@$(LMMS) -m pip install --quiet --editable .
	@touch $@

## Spatial-MLLM inside lmms-eval, in an environment of its own: .venv-lmms.
lmms-eval: $(LMMS_INSTALLED)
	@$(LMMS) -m pytest tests/evaluation/test_lmms_eval_model.py tests/evaluation/test_lmms_eval_requests.py

clean:
	@rm -rf $(VENV) $(LMMS_VENV) demo_output build dist src/*.egg-info
