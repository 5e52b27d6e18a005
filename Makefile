# Everything runs in .venv, which is built once and rebuilt when the pins change.
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= params/tiny/align.yaml
# dependency resolution would bring torchvision, which only open_clip's image transforms need
OPEN_CLIP := open-clip-torch==3.3.0

.PHONY: align backbones test lint lab showcase

align: .venv/ready
	@mkdir -p runs
	$(BIN)/papermill notebooks/01_align.ipynb runs/01_align.ipynb -p config $(CONFIG)

backbones: .venv/ready
	@mkdir -p runs
	$(BIN)/papermill notebooks/00_backbones.ipynb runs/00_backbones.ipynb

showcase: .venv/ready
	@mkdir -p runs/showcase/01_align
	$(BIN)/papermill notebooks/01_align.ipynb runs/showcase/01_align.ipynb -p run_dir runs/showcase-run
	for name in recall_by_dim tsne retrieval; do \
		cp runs/showcase-run/figures/$$name.* runs/showcase/01_align/; \
	done
	cp runs/showcase-run/metrics.json runs/showcase-run/env.json runs/showcase/01_align/

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/pytest

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --no-deps $(OPEN_CLIP)
	touch $@
