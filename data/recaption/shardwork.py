"""The captions of one shard: existing ones, remaining requests, and the written file."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.recaption.ledger import Ledger, Usage
from data.recaption.request import Request
from data.shards.caption import captions_path, read_beside, read_captions, read_note, write_captions

Recipes = Mapping[str, Request]
"""The requests for every clip, by the hash of all settings that influence the answers."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request for one clip."""

    work: "ShardWork"
    row: Mapping[str, Any]
    recipe: str
    request: Request

    def prompt(self, pictures: int) -> str:
        """The prompt, with the fields of this clip; `pictures` is its number of images.

        Raises:
            OSError: the shard cannot be read.
            ValueError: its text or json is invalid, or does not match the template.
        """
        text, state = read_beside(self.work.shard, self.row)
        old = text.strip() or state.get("caption") or "nothing"
        fields = {name: self.row[name] for name in ("key", "duration", "fps", "width", "height")}
        return self.request.render({**fields, "caption": old, "frames": pictures, "json": state})


class ShardWork:
    """The captions of one shard, by recipe; with `adding` its ledger is locked until `close`.

    `chosen` are the keys of the clips to caption; None: all usable ones.

    Raises:
        ValueError: its captions were made by another recipe and `replace` is false, or another
            process is captioning it.
    """

    def __init__(
        self,
        shard: str,
        index: Path,
        recipes: Recipes,
        *,
        model: str,
        replace: bool = False,
        adding: bool = False,
        chosen: Collection[str] | None = None,
    ) -> None:
        self.shard, self.index, self.recipes, self.model = shard, index, recipes, model
        self.chosen = chosen
        self.path = captions_path(index)
        self.note: dict[str, dict[str, str]] = dict(read_note(self.path).get("made", {}))
        self._check(replace)
        self.held = read_captions(self.path)
        name = self.path.name.removesuffix(".parquet")
        self.ledger = Ledger(self.path.with_name(f".{name}.jsonl"), adding=adding)
        self.left = 0

    def _check(self, replace: bool) -> None:
        for recipe, request in self.recipes.items():
            for name in request.captions:
                made = self.note.get(name, {"recipe": recipe})
                if made["recipe"] != recipe and not replace:
                    raise ValueError(
                        f"{self.path}: {name} was made by the model {made['model']} (recipe "
                        f"{made['recipe']}), but {self.model} (recipe {recipe}) is requested; give "
                        "the new captions other names, or replace the old ones with replace=true"
                    )

    def clips(self) -> list[str]:
        """The keys of the clips to caption: the usable ones, of `chosen` if that is given."""
        table = pq.read_table(self.index, columns=["key", "reason"])
        return [row["key"] for row in table.to_pylist() if self._wanted(row)]

    def _wanted(self, row: Mapping[str, Any]) -> bool:
        return not row["reason"] and (self.chosen is None or row["key"] in self.chosen)

    def count(self) -> dict[str, int]:
        """The number of remaining requests by recipe."""
        keys = self.clips()
        return {recipe: sum(not self.done(key, recipe) for key in keys) for recipe in self.recipes}

    def tasks(self) -> Iterator[Question]:
        """The remaining requests."""
        for row in pq.read_table(self.index).to_pylist():
            if not self._wanted(row):
                continue
            for recipe, request in self.recipes.items():
                if not self.done(row["key"], recipe):
                    yield Question(work=self, row=row, recipe=recipe, request=request)

    def done(self, key: str, recipe: str) -> bool:
        """Whether a clip has the captions of a recipe."""
        if key in self.ledger.captions.get(recipe, {}):
            return True
        names, held = self.recipes[recipe].captions, self.held.get(key, {})
        return all(held.get(n) and self.note.get(n, {}).get("recipe") == recipe for n in names)

    def captions(self) -> dict[str, dict[str, str]]:
        """All captions in the order of the index: those kept from the file, and the ledger's."""
        current = {name: recipe for recipe, r in self.recipes.items() for name in r.captions}
        stays = {
            name
            for name, made in self.note.items()
            if name not in current or current[name] == made["recipe"]
        }
        merged = {
            key: {name: caption for name, caption in held.items() if name in stays}
            for key, held in self.held.items()
        }
        for recipe in self.recipes:
            for key, made in self.ledger.captions.get(recipe, {}).items():
                merged[key] = merged.get(key, {}) | made
        order = pq.read_table(self.index, columns=["key"])["key"].to_pylist()
        return {key: merged[key] for key in order if merged.get(key)}

    def failed(self) -> dict[str, str]:
        """The reasons of failed clips, by key."""
        return {k: why for r in self.recipes for k, why in self.ledger.failed.get(r, {}).items()}

    def usage(self) -> dict[str, Usage]:
        """The token counts of each recipe, of all calls."""
        return {recipe: self.ledger.usage.get(recipe, Usage()) for recipe in self.recipes}

    def close(self) -> None:
        """Write the file of captions if it is outdated, and release the ledger."""
        captions = self.captions()
        note = self.note | {
            name: {"model": self.model, "recipe": recipe}
            for recipe, request in self.recipes.items()
            for name in request.captions
        }
        if captions and (captions, note) != (self.held, self.note):
            write_captions(self.path, captions, note={"made": note})
        self.ledger.close()
