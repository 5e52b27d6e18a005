# Everything runs in .venv, which is built once and rebuilt when the pins change.
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= params/tiny/align.yaml
# threads that wait for one whose core another program has would spin, tens of times slower
export GOMP_SPINCOUNT ?= 1000
# dependency resolution would bring torchvision, which only open_clip's image transforms need
OPEN_CLIP := open-clip-torch==3.3.0

.PHONY: align trimodal backbones trm-qa trm-tuning trm-study vlm mrl-ablation perceiver-ablation \
	fusion-ablation evaluate test lab showcase

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
evaluate: NOTEBOOK := 07_evaluate

backbones trimodal trm-qa trm-study vlm mrl-ablation perceiver-ablation evaluate: .venv/ready
	@mkdir -p runs
	$(BIN)/papermill notebooks/$(NOTEBOOK).ipynb runs/$(NOTEBOOK).ipynb

fusion-ablation trm-tuning: .venv/ready
	$(BIN)/python -m edge_lib.sweep params/tiny/$(subst -,_,$@).yaml

showcase: $(addprefix showcase-,01_align 02_trimodal 03_trm_qa trm_study 04_mrl_ablation 05_perceiver_ablation 06_vlm 07_evaluate)

FIGURES := recall_by_dim tsne retrieval fusion gate_weights listen_and_look kept weights confusions \
	recall costs cost_curves training by_kind answers attention four paired pareto steps chains scenes \
	width rounds exact_match captions bits

showcase-%: .venv/ready
	@mkdir -p runs/showcase/$*
	rm -rf runs/showcase-run/$*
	$(BIN)/papermill notebooks/$*.ipynb runs/showcase/$*.ipynb -p run_dir runs/showcase-run/$*
	for name in $(FIGURES); do \
		cp runs/showcase-run/$*/figures/$$name.* runs/showcase/$*/ 2>/dev/null || true; \
	done
	cp runs/showcase-run/$*/metrics.json runs/showcase-run/$*/env.json runs/showcase/$*/
	cp runs/showcase-run/$*/*.csv runs/showcase/$*/ 2>/dev/null || true

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --no-deps $(OPEN_CLIP)
	touch $@
