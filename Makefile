# make train and make test do everything from a fresh clone: environment, dependencies, kernels, then the work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup train weights test test-all check sanitize docs clean distclean
help:
	@echo "make train     train LM-LIIF on bundled photographs (minutes); ARGS='schedule=paper data=div2k' for more"
	@echo "make test      fast tests"
	@echo "make test-all  slow and multi-process tests and the notebooks too"
	@echo "make check     lint and types"
	@echo "make docs      the documentation, into site/"
	@echo "make sanitize  the kernels under address and undefined-behaviour sanitizers"
	@echo "make weights   train the pretrained models anew: PHOTOS=folder LIIF=edsr-baseline-liif.pth"
	@echo "make setup     only the environment and the kernels; then $(BIN)/lmf --help"
	@echo "make clean     remove builds and caches; make distclean: the environment too"

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); give PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,sweep,docs,dev]'
	$(BIN)/python -m lmf.kernels
	@touch $@

setup: $(READY)

train: setup
	$(BIN)/lmf experiment=lmf_edsr $(ARGS)

# Hours of one CPU core: decoders on features of LIIF's encoder, then LM-LIIF as a whole. Once stopped, it goes on.
WEIGHTS := lmf/weights
run = hydra.run.dir=runs/weights/$1 $(if $(wildcard runs/weights/$1/checkpoints/last.ckpt),ckpt_path=runs/weights/$1)
FIT := $(BIN)/lmf data=folder data.root='$(PHOTOS)' data.val_scales=[2,4]
weights: setup
	$(FIT) experiment=lmf_edsr schedule=decoder init_from='$(LIIF)' $(call run,decoder)
	$(FIT) experiment=lmf_edsr schedule=finetune init_from=runs/weights/decoder $(call run,lm_liif_edsr)
	$(FIT) experiment=lm_lte_edsr schedule=decoder schedule.epochs=25 schedule.optimizer.lr=1e-3 init_from='$(LIIF)' \
	  $(call run,lm_lte_edsr)
	for model in lm_liif_edsr lm_lte_edsr; do set -e; \
	  $(BIN)/lmf task=export ckpt_path=runs/weights/$$model card=$(WEIGHTS)/card.yaml \
	    output=$(WEIGHTS)/$$model.safetensors; \
	  $(BIN)/lmf task=calibrate ckpt_path=$$model input='$(PHOTOS)'; \
	done

test: setup
	$(BIN)/python -m pytest -q -m "not slow and not ddp and not gpu" $(ARGS)

test-all: setup
	$(BIN)/python -m pytest -q $(ARGS)
	$(BIN)/python -m pytest -q --nbmake notebooks

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find lmf tests notebooks -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
