"""The rules of a stage's and a run's values in training; `command_values` has the commands' own."""

from cascade.values import Rule, choice, mapping, number, one_or_several, part, several, text, whole

_DATA = one_or_several(text())

#: The values of parts that a class would take without a check.
PARTS: dict[str, Rule] = {
    **{f"stage.net.{name}": whole(1) for name in ("width", "depth", "head_width")},
    **{f"stage.net.{name}": several(whole(1)) for name in ("widths", "depths")},
    "stage.diffusion.schedule.logsnr_shift": number(),
    **{
        f"stage.train.optimizer.{name}": number(least=0)
        for name in ("lr", "muon_lr", "adamw_lr", "weight_decay")
    },
    "stage.train.optimizer.betas": several(number(least=0, below=1), least=2),
    "stage.train.lr_factor.decay": choice("constant", "linear", "cosine"),
    "stage.train.lr_factor.final": number(least=0, most=1),
    "stage.train.modes.stride": whole(1),
    "stage.train.modes.only": text().or_null,
    "stage.train.modes.shares": mapping(),
    "stage.train.modes.shares.*": number(least=0),
    "data.shards": Rule(
        wants="text, a list of at least 1 text, or a mapping of sets",
        holds=lambda v: _DATA.holds(v) or mapping().holds(v),
        way_out="make train DATA=folder; sets: see conf/data/shards.yaml",
    ),
    "data.loading.num_workers": whole(0).or_null,
    "data.loading.prefetch": whole(1),
    "data.loading.cache_bytes": whole(0),
    "callbacks.checkpoint.keep": part("keep fewer: callbacks.checkpoint.keep.last=1"),
    "callbacks.interrupt.leg_s": number(above=0).or_null,
    **{f"callbacks.watchdog.{name}": number(above=0) for name in ("hang_s", "first_hang_s")},
    **{f"callbacks.guard.{name}": number(above=0) for name in ("factor", "norm_factor", "spreads")},
    "callbacks.diagnostics.logsnr_edges": several(number()),
    "callbacks.worth.conditions": several(text(), least=0),
}
