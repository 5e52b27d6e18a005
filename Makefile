# Everything runs in .venv, which is built once and rebuilt when the pins change.
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= params/tiny/align.yaml
# by default OpenMP threads spin while they wait, which on a busy machine is tens of times slower
export GOMP_SPINCOUNT ?= 1000
# its dependencies include torchvision, which only its image transforms need
OPEN_CLIP := open-clip-torch==3.3.0

.PHONY: align stamps trimodal backbones trm-qa trm-tuning trm-study vlm mrl-ablation perceiver-ablation binding \
	fusion-ablation evaluate search layers benchmarks practice tiny-align test test-fast campaign lab showcase

align: .venv/ready
	@mkdir -p runs
	$(BIN)/papermill notebooks/01_align.ipynb runs/01_align.ipynb -p config $(CONFIG)

backbones: NOTEBOOK := 00_backbones
trimodal: NOTEBOOK := 02_trimodal
trm-qa: NOTEBOOK := 03_trm_qa
trm-study: NOTEBOOK := trm_study
vlm: NOTEBOOK := 06_vlm
mrl-ablation: NOTEBOOK := 04_mrl_ablation
perceiver-ablation: NOTEBOOK := 05_perceiver_ablation
binding: NOTEBOOK := 10_binding
evaluate: NOTEBOOK := 07_evaluate
search: NOTEBOOK := 08_search
layers: NOTEBOOK := 11_layers
benchmarks: NOTEBOOK := 09_benchmarks
practice: NOTEBOOK := 12_practice

backbones trimodal trm-qa trm-study vlm mrl-ablation perceiver-ablation binding evaluate search layers benchmarks practice: .venv/ready
	@mkdir -p runs
	$(BIN)/papermill notebooks/$(NOTEBOOK).ipynb runs/$(NOTEBOOK).ipynb

stamps: .venv/ready # 01 on real pictures, which the notebook downloads
	@mkdir -p runs
	$(BIN)/papermill notebooks/01_align.ipynb runs/stamps_01_align.ipynb \
		-p config params/stamps/align.yaml

fusion-ablation trm-tuning: .venv/ready
	$(BIN)/edge-glass sweep params/tiny/$(subst -,_,$@).yaml

# the aligner that ships: the weights that `make align` trains, with the card of the run
tiny-align: .venv/ready
	$(BIN)/papermill notebooks/01_align.ipynb runs/tiny-align.ipynb -p run_dir runs/tiny-align
	rm -rf edge_lib/assets/tiny-align
	cp -r runs/tiny-align/checkpoints/best edge_lib/assets/tiny-align
	sed 's|ORG/NAME|tiny-align|' runs/tiny-align/checkpoints/best/README.md \
		> edge_lib/assets/tiny-align/README.md

showcase: $(addprefix showcase-,01_align 02_trimodal 03_trm_qa trm_study 04_mrl_ablation 05_perceiver_ablation 06_vlm 07_evaluate 08_search 09_benchmarks 11_layers 12_practice)

FIGURES := recall_by_dim swap_probe tsne retrieval fusion gate_weights audio_retrieval kept weights confusions \
	recall costs cost_curves training by_kind answers attention four paired pareto steps chains scenes \
	width rounds exact_match captions bits queries labels label_confusion duplicates outliers \
	compared_recall agreement ranking ratios comparisons

# name of the outcome, notebook, parameters
define SHOW
@mkdir -p runs/showcase/$(1)
rm -rf runs/showcase-run/$(1)
$(BIN)/papermill notebooks/$(2).ipynb runs/showcase/$(1).ipynb -p run_dir runs/showcase-run/$(1) $(3)
for name in $(FIGURES); do \
	cp runs/showcase-run/$(1)/figures/$$name.* runs/showcase/$(1)/ 2>/dev/null || true; \
done
cp runs/showcase-run/$(1)/metrics.json runs/showcase-run/$(1)/env.json runs/showcase/$(1)/
cp runs/showcase-run/$(1)/*.csv runs/showcase/$(1)/ 2>/dev/null || true
for card in $$(grep -rl --include README.md '^## Results' runs/showcase-run/$(1)); do \
	name=$$(basename "$${card%/checkpoints/best/README.md}" | sed 's/^$(1)$$/README/'); \
	sed 's|(figures/|(|' "$$card" > runs/showcase/$(1)/$$name.md; \
done
endef

showcase-%: .venv/ready
	$(call SHOW,$*,$*)

# with the decoders in the run folder, where their model cards are looked for
showcase-03_trm_qa: .venv/ready
	$(call SHOW,03_trm_qa,03_trm_qa,-p overrides sweep.folder=runs/showcase-run/03_trm_qa/decoders)

# beside a second run of 01, with which the evaluated one is compared
showcase-07_evaluate: .venv/ready
	$(BIN)/papermill notebooks/01_align.ipynb runs/01_pooled.ipynb -p overrides vision.pooler=pooled
	$(call SHOW,07_evaluate,07_evaluate)

# 01_align, 02_trimodal, 07_evaluate or 08_search, with params/stamps/{align,trimodal,evaluate,search}.yaml
showcase-stamps-%: .venv/ready
	$(call SHOW,stamps_$*,$*,-p config params/stamps/$(lastword $(subst _, ,$*)).yaml)

# one thread for each of the two workers: more would wait for one another
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: .venv/ready
	$(BIN)/ruff check .
	$(PYTEST)

test-fast: .venv/ready # what needs no whole notebook and installs nothing
	$(BIN)/ruff check .
	$(PYTEST) -m "not notebook and not packages"

campaign: .venv/ready # faults: killed processes, full disks, damaged files and rows
	$(PYTEST) -m campaign

lab: .venv/ready # on copies, so that working in them leaves the repository as it is
	@mkdir -p runs/lab
	cp -n notebooks/*.ipynb runs/lab/
	$(BIN)/jupyter lab runs/lab

# uv, where it is on the path, builds the same environment sooner; `make UV=` uses pip instead.
# uv reads no settings of pip: those of indexes, certificates and constraints are passed on.
UV := $(if $(shell command -v uv 2>/dev/null),uv)
ifneq ($(UV),)
comma := ,
space := $() $()
pip_config = $(shell $(PYTHON) -m pip config get $(1).$(2) 2>/dev/null)
pip_setting = $(strip $(or $(PIP_$(1)),$(call pip_config,install,$(2)),$(call pip_config,global,$(2))))
.venv/ready: export UV_DEFAULT_INDEX ?= $(call pip_setting,INDEX_URL,index-url)
.venv/ready: export UV_INDEX ?= $(call pip_setting,EXTRA_INDEX_URL,extra-index-url)
.venv/ready: export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(call pip_setting,FIND_LINKS,find-links))
.venv/ready: export UV_NO_INDEX ?= $(call pip_setting,NO_INDEX,no-index)
.venv/ready: export UV_CONSTRAINT ?= $(call pip_setting,CONSTRAINT,constraint)
.venv/ready: export SSL_CERT_FILE ?= $(call pip_setting,CERT,cert)
# as a path, since uv takes a name such as python3 for a version
VENV = $(UV) venv --allow-existing --seed --python "$(shell command -v $(PYTHON))"
INSTALL = $(UV) pip install --python $(BIN)/python --index-strategy unsafe-best-match
else
VENV = $(PYTHON) -m venv
INSTALL = $(BIN)/python -m pip install
endif

.venv/ready: pyproject.toml constraints.txt
	$(VENV) .venv
	$(INSTALL) -c constraints.txt -e ".[dev]"
	$(INSTALL) --no-deps $(OPEN_CLIP)
	touch $@
