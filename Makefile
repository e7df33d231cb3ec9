# Cascade's commands; `make help` lists them. Variables go behind: make train STAGE=tsr1 NAME=wide
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    ?= .venv
PEER    ?= .venv-peer
EXTRAS  ?= dev,slurm
CASCADE ?= demo
STAGE   ?= base
NAME    ?= default
DATA    ?= $(if $(filter single_gpu,$(CASCADE)),shapes128)
EXP     ?=
ARGS    ?=
DEPTH   ?= keyframes
CLUSTER ?= local
PROMPT  ?= a small red circle moves left on a black background
RUN     := $(VENV)/bin/python
READY   := $(VENV)/.ready-$(EXTRAS)

data = $(if $(DATA),$(if $(wildcard conf/data/$(DATA).yaml),data=$(DATA),data=shards "data.shards='$(DATA)'"))
experiment = $(if $(EXP),$(if $(word 2,$(stages)),$(error EXP is one stage's recipe: name one STAGE))experiment=$(CASCADE)/$(STAGE)/$(EXP))
# `STAGE='base tsr1'` or `STAGE=all`: one run each, side by side on a cluster.
comma := ,
space := $(subst ,, )
stages = $(if $(filter all,$(STAGE)),$(shell sed -n 's/^stages: *\[\(.*\)\]/\1/p' conf/cascade/$(CASCADE).yaml | tr -d ,),$(STAGE))
jobs = $(if $(filter-out local,$(CLUSTER))$(word 2,$(stages)),--multirun hydra/launcher=$(if $(filter local,$(CLUSTER)),local,slurm) cluster=$(CLUSTER) $(if $(FOLLOW),hydra.launcher.follow=true))
stage = stage=$(subst $(space),$(comma),$(addprefix $(CASCADE)/,$(stages))) "name='$(NAME)'" $(data) $(experiment)

export PROMPT
smoke: NAME = smoke
smoke: DATA = smoke
overfit: NAME = overfit
sweep: NAME =

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage check shards index captions embeddings plan train prove sweep compare ema overfit smoke \
        config params sample evaluate bench peer clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the environment in .venv

$(READY): pyproject.toml
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(READY)  ## the whole job on this machine: shards, three stages, videos, a page
	$(RUN) -m cascade.demo $(ARGS)

test: $(READY)  ## run the tests (TESTS='-m "not slow"' for the fast ones)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist worksteal $(TESTS)

coverage: $(READY)  ## the tests, and which lines they reach
	$(RUN) -m pytest --cov --cov-report=term:skip-covered $(TESTS)

check: $(READY)  ## style, types, architecture
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

shards: $(READY)  ## videos, images or a list (FROM) → shards and a report (TO); CLUSTER=slurm spreads it
	$(RUN) -m data.ingest $(if $(FROM),"from='$(FROM)'") $(if $(TO),"to='$(TO)'") cluster=$(CLUSTER) $(ARGS)

index: $(READY)  ## try what SHARDS hold and write it beside them (DEPTH=probe|keyframes|full)
	$(RUN) -m data.index $(if $(SHARDS),"shards='$(SHARDS)'") depth=$(DEPTH) $(ARGS)

captions: $(READY)  ## new captions for SHARDS by a vision-language model: ENDPOINT=http://…/v1 MODEL=name
	$(RUN) -m data.recaption $(if $(SHARDS),"shards='$(SHARDS)'") $(if $(ENDPOINT),"endpoint='$(ENDPOINT)'") $(if $(MODEL),"model='$(MODEL)'") $(ARGS)

embeddings: $(READY)  ## T5 embeddings of every caption of SHARDS, beside them: ENCODER=folder
	$(RUN) -m data.embed $(if $(SHARDS),"shards='$(SHARDS)'") $(if $(ENCODER),"encoder='$(ENCODER)'") $(ARGS)

plan: $(READY)  ## the doctor: what a run of STAGE costs and what is amiss, before its first step
	@$(RUN) -m cascade.plan $(stage) $(ARGS)

train: $(READY)  ## train STAGE (one, some, all) on DATA, or go on with it; CLUSTER=slurm submits, FOLLOW=1 watches
	$(RUN) -m cascade.train $(jobs) $(stage) $(ARGS)

prove: $(READY)  ## check claims about a trained run of STAGE: a page, and exit status 0 where all hold
	@$(RUN) -m cascade.prove $(stage) $(ARGS)

sweep: $(READY)  ## STAGE once for every setting of SWEEP (conf/sweep; 'a b' crosses two), JOBS at a time; then a table
	$(RUN) -m cascade.sweep sweep='$(SWEEP)' cluster=$(CLUSTER) $(if $(JOBS),jobs=$(JOBS)) $(if $(FOLLOW),follow=1) $(stage) $(ARGS)

compare: $(READY)  ## RUNS side by side: folders, globs, wandb:entity/project[/group]; REPORT=1: on W&B too
	@RUNS='$(RUNS)' $(RUN) -m cascade.compare 'runs=$${oc.env:RUNS}' $(if $(REPORT),report=true) $(ARGS)

ema: $(READY)  ## a bundle of the trained STAGE averaged at another WIDTH, in folder TO (needs snapshots)
	$(RUN) -m cascade.reconstruct "run='\$${paths.runs}/$(CASCADE)/$(STAGE)/$(NAME)'" width=$(WIDTH) $(if $(TO),"to='$(TO)'") $(ARGS)

overfit: $(READY)  ## is it learning? one real clip (CLIP=file) must come back
	$(RUN) -m cascade.overfit $(stage) debug=overfit $(if $(CLIP),"clip='$(CLIP)'") $(ARGS)

smoke: $(READY)  ## two steps of STAGE, shrunk, on the CPU
	$(RUN) -m cascade.train $(stage) debug=smoke $(ARGS)

config: $(READY)  ## print the whole config of STAGE
	@$(RUN) -m cascade.train $(stage) --cfg job --resolve $(ARGS)

params: $(READY)  ## one line per stage of CASCADE: parameters, grid, from the meta device
	@$(RUN) -m cascade.params cascade=$(CASCADE) $(ARGS)

sample: $(READY)  ## a video for PROMPT from the runs NAME of CASCADE
	$(RUN) -m cascade.sample cascade=$(CASCADE) "run='$(NAME)'" 'prompt=$${oc.env:PROMPT}' $(ARGS)

evaluate: $(READY)  ## how well the trained CASCADE follows held-out prompts
	$(RUN) -m cascade.evaluate cascade=$(CASCADE) $(ARGS)

bench: $(READY)  ## speed of STAGE as JSON: training step, sampling, loader
	@$(RUN) -m cascade.bench $(stage) $(ARGS)

peer: $(READY)  ## speed and quality beside imagen-pytorch, in an environment of its own (PEER)
	$(RUN) tests/peers/imagen_pytorch.py --venv $(PEER) $(ARGS)

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
