# Cascade's commands; `make help` lists them. Variables follow the target: make train STAGE=tsr1 NAME=wide
# For `make help`, a variable follows a line `#: text`, and a target ends in `## [group] text`.
SHELL   := /bin/bash
#: a cascade, conf/cascade/<name>.yaml: targets with STAGE, and params, sample, evaluate
CASCADE ?= demo
#: a stage of CASCADE: plan, train, prove, sweep, ema, overfit, smoke, config, bench; train: also 'base tsr1' or all
STAGE   ?= base
#: the run's name: targets with STAGE, and sample; sweep, overfit and smoke have their own defaults
NAME    ?= default
#: training data, conf/data/<name>.yaml or the path of shards: targets with STAGE; none: the stage's default
DATA    ?= $(if $(filter single_gpu,$(CASCADE)),shapes128)$(filter minute physics,$(CASCADE))
#: a recorded recipe, conf/experiment/<cascade>/<stage>/<name>.yaml: targets with STAGE
EXP     ?=
#: where it runs, conf/cluster/<name>.yaml: shards, train, sweep, sample with BATCH
CLUSTER ?= local
#: further overrides of the config, such as ARGS='trainer=gpu seed=3': all but setup, test, coverage, check, clean
ARGS    ?=
#: the prompt: sample
PROMPT  ?= a small red circle moves left on a black background
#: many requests, a YAML or JSON list of values of conf/sample.yaml: sample
BATCH   ?=
#: processes, or jobs on a CLUSTER, among which BATCH is divided: sample
PARTS   ?=
#: measures by name, such as 'prompts story', instead of all of the world's: evaluate
MEASURES ?=
#: how thoroughly shards are checked, probe, keyframes, full or decord: index
DEPTH   ?= keyframes
#: optional dependencies to install: setup
EXTRAS  ?= dev,slurm
#: the Python that makes the environment: setup
PYTHON  ?= python3
#: the folder of the environment
VENV    ?= .venv
#: the folder of imagen-pytorch's environment: peer
PEER    ?= .venv-peer
RUN     := $(VENV)/bin/python
PYTEST   = OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist worksteal
READY   := $(VENV)/.ready-$(EXTRAS)

# What a user types is taken as typed: make must not expand its `$`, …
typed := STAGE CASCADE NAME DATA EXP CLUSTER ARGS PROMPT DEPTH FROM TO SHARDS ENDPOINT MODEL ENCODER SWEEP JOBS RUNS \
         WIDTH CLIP TESTS OUT BATCH PARTS MEASURES
$(foreach v,$(typed),$(if $(filter command,$(firstword $(origin $v))),$(eval override $v := $$(value $v))))
$(foreach v,$(typed),$(if $(filter environment,$(firstword $(origin $v))),$(eval $v := $$(value $v))))
# … nor the shell (quoted), nor Hydra (set): an apostrophe, a backslash before one or at the end, and `${` are escaped.
quoted = '$(subst ','\'',$1)'
closed = $(subst ␃,',$(subst ',\',$(subst \',\\',$(subst \␃,\\␃,$(subst $${,\$${,$1␃)))))
set = $(call quoted,$1='$(call closed,$2))
# ARGS and TESTS are several arguments in the shell's quotes; `$` is literal in them too.
literal = $(if $(findstring ',$1),$1,$(subst $$,\$$,$1))
args = $(call literal,$(ARGS))

comma := ,
space := $(subst ,, )
known = $(wildcard conf/data/$(subst $(space),\ ,$(DATA)).yaml)
data = $(if $(DATA),$(if $(known),$(call quoted,data=$(DATA)),data=shards $(call set,data.shards,$(DATA))))
experiment = $(if $(EXP),$(if $(word 2,$(stages)),$(error EXP is one stage's recipe: name one STAGE))$(call quoted,experiment=$(CASCADE)/$(STAGE)/$(EXP)))
# `STAGE='base tsr1'` or `STAGE=all`: one run each, side by side on a cluster.
chain = $(shell $(RUN) -c 'import sys, yaml; print(*yaml.safe_load(open(sys.argv[1]))["stages"])' $(call quoted,conf/cascade/$(CASCADE).yaml))
all = $(or $(chain),$(error STAGE=all: conf/cascade/$(CASCADE).yaml has no list of stages))
stages = $(if $(filter all,$(STAGE)),$(eval stages := $(all))$(stages),$(STAGE))
jobs = $(if $(filter-out local,$(CLUSTER))$(word 2,$(stages)),--multirun hydra/launcher=$(if $(filter local,$(CLUSTER)),local,slurm) $(call quoted,cluster=$(CLUSTER)) $(if $(FOLLOW),hydra.launcher.follow=true))
stage = $(call quoted,stage=$(subst $(space),$(comma),$(addprefix $(CASCADE)/,$(stages)))) $(call set,name,$(NAME)) $(data) $(experiment)
cascade = $(call quoted,cascade=$(CASCADE))
# A batch is sampled by this process, or by one process or Slurm job per part.
count = $(or $(PARTS),1)
parts = --multirun $(call quoted,parts=$(count)) $(call quoted,part=range($(count))) $(if $(filter local,$(CLUSTER)),hydra/launcher=local $(call quoted,hydra.launcher.jobs=$(count)),hydra/launcher=slurm $(call quoted,cluster=$(CLUSTER)) $(if $(FOLLOW),hydra.launcher.follow=true))
batch = $(if $(BATCH),$(if $(filter-out local,$(CLUSTER))$(PARTS),$(parts)) $(call set,batch,$(BATCH)),$(if $(PARTS),$(error PARTS divides a batch: make sample BATCH=file PARTS=$(PARTS))))
# With FROM, BATCH or a timeline, what is said of a variable only if a user sets it.
chosen = $(if $(and $(FROM)$(BATCH)$(findstring timeline=,$(ARGS)),$(filter file,$(origin $1))),,$2)

export PROMPT RUNS
ifneq ($(origin NAME),override)
smoke: NAME = smoke
overfit: NAME = overfit
sweep: NAME =
endif
ifneq ($(origin DATA),override)
smoke: DATA = smoke
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all coverage check shards index captions embeddings plan train prove sweep compare ema overfit smoke \
        config new params sample bundle evaluate bench peer clean

help:  ## [develop] list targets and variables
	@awk '/^#: / {note = substr($$0, 4); next} \
	/^[A-Z]+ *[?]=/ && note {value = $$0; sub(/^[A-Z]+ *[?]= */, "", value); if (value ~ /[$$]/) value = ""; \
	  variables = variables sprintf("  %-8s %s%s\n", $$1, note, value ? " [" value "]" : "")} \
	{note = ""} \
	/^[a-z-]+:.*## \[/ {name = $$1; sub(/:.*/, "", name); text = $$0; sub(/.*## \[/, "", text); \
	  group = text; sub(/\].*/, "", group); sub(/[^\]]*\] */, "", text); \
	  targets[group] = targets[group] sprintf("  make %-10s %s\n", name, text)} \
	END {print "make TARGET [VARIABLE=value …]"; n = split("data train use develop", groups, " "); \
	  for (i = 1; i <= n; i++) printf "\n%s\n%s", groups[i], targets[groups[i]]; \
	  printf "\nvariables, targets that use them, [default]\n%s", variables}' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## [develop] make the environment in VENV

$(READY): pyproject.toml
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing Cascade and what it needs in $(VENV): some minutes, and about 2 GB"
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(READY)  ## [use] all steps on this machine: shards, training, videos, a page; CASCADE=minute: a minute of video
	$(RUN) -m cascade.demo $(if $(filter demo,$(CASCADE)),,$(if $(filter minute,$(CASCADE)),--config-name minute,$(error make demo has the cascades demo and minute, not $(CASCADE)))) $(args)

test: $(READY)  ## [develop] run the tests that take at most ten seconds each; TESTS='tests/data -k shots': some of them
	$(PYTEST) -m 'not slow' $(call literal,$(TESTS))

test-all: $(READY)  ## [develop] run all tests: kills, two processes, a browser, a Slurm cluster and whole commands too
	$(PYTEST) $(call literal,$(TESTS))

coverage: $(READY)  ## [develop] run the tests and report which lines they cover
	$(PYTEST) --cov --cov-report=term:skip-covered $(call literal,$(TESTS))

check: $(READY)  ## [develop] check style, types and the layers of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

shards: $(READY)  ## [data] make shards and a report in folder TO from videos, images or a list FROM; CLUSTER=slurm: as a job array
	$(RUN) -m data.ingest $(if $(FROM),$(call set,from,$(FROM))) $(if $(TO),$(call set,to,$(TO))) $(call quoted,cluster=$(CLUSTER)) $(args)

index: $(READY)  ## [data] check the samples in SHARDS and write an index next to them (DEPTH=probe|keyframes|full|decord)
	$(RUN) -m data.index $(if $(SHARDS),$(call set,shards,$(SHARDS))) $(call quoted,depth=$(DEPTH)) $(args)

captions: $(READY)  ## [data] write new captions for SHARDS with a vision-language model: ENDPOINT=http://…/v1 MODEL=name
	$(RUN) -m data.recaption $(if $(SHARDS),$(call set,shards,$(SHARDS))) $(if $(ENDPOINT),$(call set,endpoint,$(ENDPOINT))) $(if $(MODEL),$(call set,model,$(MODEL))) $(args)

embeddings: $(READY)  ## [data] write T5 embeddings of all captions of SHARDS next to them: ENCODER=folder
	$(RUN) -m data.embed $(if $(SHARDS),$(call set,shards,$(SHARDS))) $(if $(ENCODER),$(call set,encoder,$(ENCODER))) $(args)

plan: $(READY)  ## [train] check a run of STAGE before it starts: its cost, and problems in its config and data
	@$(RUN) -m cascade.plan $(stage) $(args)

train: $(READY)  ## [train] train STAGE on DATA, or resume the run; CLUSTER=slurm: submit a job, FOLLOW=1: print its log
	$(RUN) -m cascade.train $(jobs) $(stage) $(args)

prove: $(READY)  ## [train] check claims about a trained run of STAGE; writes a page, exit status 0 if all hold
	@$(RUN) -m cascade.prove $(stage) $(args)

sweep: $(READY)  ## [train] train STAGE once for every setting of SWEEP (conf/sweep; 'a b': both crossed), JOBS at a time
	$(RUN) -m cascade.sweep $(call quoted,sweep=$(SWEEP)) $(call quoted,cluster=$(CLUSTER)) $(if $(JOBS),$(call quoted,jobs=$(JOBS))) $(if $(FOLLOW),follow=1) $(stage) $(args)

compare: $(READY)  ## [train] compare RUNS: folders, globs, wandb:entity/project[/group]; REPORT=1: also as a W&B report
	@$(RUN) -m cascade.compare 'runs=$${oc.env:RUNS}' $(if $(REPORT),report=true) $(args)

ema: $(READY)  ## [train] write a bundle of the trained STAGE averaged with another WIDTH to folder TO (needs snapshots)
	$(RUN) -m cascade.reconstruct $(call quoted,run='$${paths.runs}/$(call closed,$(CASCADE)/$(STAGE)/$(NAME))) $(call quoted,width=$(WIDTH)) $(if $(TO),$(call set,to,$(TO))) $(args)

overfit: $(READY)  ## [train] overfit one clip (CLIP=file), which STAGE must reproduce
	$(RUN) -m cascade.overfit $(stage) debug=overfit $(if $(CLIP),$(call set,clip,$(CLIP))) $(args)

smoke: $(READY)  ## [train] train two steps of STAGE, shrunk, on the CPU
	$(RUN) -m cascade.train $(stage) debug=smoke $(args)

config: $(READY)  ## [train] print the resolved config of STAGE
	@$(RUN) -m cascade.config $(stage) $(args)

new: $(READY)  ## [train] copy the configs of cascade FROM to a new cascade CASCADE, to be edited
	@$(RUN) -m cascade.new $(call quoted,$(CASCADE)) --of $(call quoted,$(or $(FROM),demo))

params: $(READY)  ## [train] list the stages of CASCADE with their grids and numbers of parameters
	@$(RUN) -m cascade.params $(cascade) $(args)

sample: $(READY)  ## [use] sample a video for PROMPT from the runs NAME of CASCADE; FROM=video.mp4: make that one again; BATCH=file: many
	$(RUN) -m cascade.sample $(batch) $(if $(FROM),$(call set,from,$(FROM))) $(call chosen,CASCADE,$(cascade)) \
	  $(call chosen,NAME,$(call set,run,$(NAME))) $(call chosen,PROMPT,'prompt=$${oc.env:PROMPT}') $(args)

bundle: $(READY)  ## [use] join the trained stages of CASCADE, from the runs NAME, in one folder OUT
	$(RUN) -m cascade.join $(cascade) $(call set,run,$(NAME)) $(if $(OUT),$(call set,out,$(OUT))) $(args)

evaluate: $(READY)  ## [use] measure the trained CASCADE on held-out prompts; MEASURES='prompts story': by these measures alone
	$(RUN) -m cascade.evaluate $(cascade) $(call set,run,$(NAME)) $(if $(MEASURES),$(call quoted,only=[$(subst $(space),$(comma),$(strip $(MEASURES)))])) $(args)

bench: $(READY)  ## [develop] measure the speed of STAGE's training steps, by part, and of sampling
	@$(RUN) -m cascade.bench $(stage) $(args)

peer: $(READY)  ## [develop] compare speed and quality with imagen-pytorch, in a separate environment (PEER)
	$(RUN) tests/peers/imagen_pytorch.py --venv $(PEER) $(args)

clean:  ## [develop] remove the environment and caches, but not the runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
