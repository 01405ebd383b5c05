# Targets that need the environment and the kernels create them first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup train weights test test-all check sanitize bench docs clean distclean
help:
	@echo "make train     train LM-LIIF on bundled photographs (minutes); ARGS='schedule=paper data=div2k' for more"
	@echo "make test      run the fast tests"
	@echo "make test-all  run all tests and the notebooks"
	@echo "make check     lint, check the format and the types"
	@echo "make docs      build the documentation into site/"
	@echo "make sanitize  test the kernels with address and undefined-behaviour sanitizers"
	@echo "make bench     compare the kernels' lead over PyTorch with the committed one, on an idle machine"
	@echo "make weights   train the pretrained models again: PHOTOS=folder LIIF=edsr-baseline-liif.pth"
	@echo "make setup     create the environment and build the kernels; see $(BIN)/lmf --help"
	@echo "make clean     remove builds and caches; make distclean removes the environment too"

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); give PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[train,tensorboard,dashboard,sweep,search,web,onnx,docs,dev]'
	$(BIN)/python -m lmf.kernels
	@touch $@

setup: $(READY)

train: setup
	$(BIN)/lmf experiment=lmf_edsr $(ARGS)

# Trains the decoders on features of LIIF's encoder, then everything on photographs, graphics and LIIF's predictions.
# Takes hours on one CPU core. After an interruption the same command continues.
WEIGHTS := lmf/weights
run = hydra.run.dir=runs/weights/$1 $(if $(wildcard runs/weights/$1/checkpoints/last.ckpt),ckpt_path=runs/weights/$1)
FIT := $(BIN)/lmf data=folder data.root='$(PHOTOS)' data.val_scales=[2,4]
DISTIL := schedule=distill schedule.teacher.model='$(LIIF)' precision=bf16-mixed
weights: setup
	$(FIT) experiment=lmf_edsr schedule=decoder init_from='$(LIIF)' $(call run,lm_liif_decoder)
	$(FIT) experiment=lmf_edsr $(DISTIL) init_from=runs/weights/lm_liif_decoder $(call run,lm_liif_distilled)
	$(FIT) experiment=lmf_edsr $(DISTIL) schedule.epochs=2 schedule.optimizer.lr=1e-4 schedule.graphics=0.35 \
	  schedule.teacher.weight=1 schedule.photometric=[] init_from=runs/weights/lm_liif_distilled $(call run,lm_liif_edsr)
	$(FIT) experiment=lm_lte_edsr schedule=decoder schedule.epochs=25 schedule.optimizer.lr=1e-3 init_from='$(LIIF)' \
	  $(call run,lm_lte_decoder)
	$(FIT) experiment=lm_lte_edsr $(DISTIL) schedule.epochs=2 init_from=runs/weights/lm_lte_decoder $(call run,lm_lte_edsr)
	for model in lm_liif_edsr lm_lte_edsr; do set -e; \
	  $(BIN)/lmf task=export ckpt_path=runs/weights/$$model/checkpoints/last.ckpt card=$(WEIGHTS)/card.yaml \
	    bounds='$(PHOTOS)' output=$(WEIGHTS)/$$model.safetensors; \
	  $(BIN)/lmf task=calibrate ckpt_path=$$model input='$(PHOTOS)' output=$(WEIGHTS)/$$model.cmsr.yaml; \
	done

test: setup # two processes, each of one thread, are twice as fast as one of two threads
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not ddp and not gpu and not browser" $(ARGS)

test-all: setup
	$(BIN)/python -m pytest -q $(ARGS)
	$(BIN)/python -m pytest -q --nbmake notebooks

# The instrumented kernel has a cache folder to itself. Python is not instrumented, so the runtime is loaded before it.
SANITIZE := LMF_CACHE="$(CURDIR)/build/sanitize" LMF_FUZZ=2000 OMP_NUM_THREADS=1 LMF_CXXFLAGS="-O1 -g -fno-omit-frame-pointer \
  -fsanitize=address,undefined -fno-sanitize-recover=undefined"
sanitize: setup
	$(SANITIZE) $(BIN)/python -m lmf.kernels
	$(SANITIZE) LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -q -m "not ddp and not gpu" tests/kernels tests/renderers $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Fails if a kernel's lead over PyTorch fell; see benchmarks/ratios.py. On an idle machine.
bench: setup
	$(BIN)/python benchmarks/ratios.py $(ARGS)

docs: setup
	$(BIN)/python docs/browser/build.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find lmf tests notebooks -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
