"""What a model is asked about a clip, and how its answer is read."""

import hashlib
import json
import string
from collections.abc import Mapping
from typing import Any

from data.shards.caption import KEY, TEXT

FIELDS = ("caption", "frames", "duration", "fps", "width", "height", "key", "json")
_ORDER = """

Answer with one JSON object and nothing else, with these keys:
"""


class BadAnswerError(ValueError):
    """An answer that holds no captions; its text is the reason."""


class Known(dict[str, Any]):
    """A sample's json in a template: what it has not is `unknown`."""

    def __missing__(self, name: str) -> str:
        return "unknown"


class Request:
    """One question about a clip: a template, and for each caption's name what it is to be.

    Raises:
        ValueError: the template names a field that there is not, or a name is none for a caption.
    """

    def __init__(self, *, text: str, captions: Mapping[str, str]) -> None:
        self.text, self.captions = text, dict(captions)
        for _, field, _, _ in string.Formatter().parse(text):
            if field is not None and (field.partition("[")[0] not in FIELDS or "." in field):
                raise ValueError(
                    f"captions: the template names {{{field}}}; there are "
                    f"{', '.join(FIELDS)}, and braces themselves are written {{{{ and }}}}"
                )
        if not self.captions:
            raise ValueError("captions: a request must name the captions that it asks for")
        for name in self.captions:
            if not name.isidentifier() or name in (KEY, TEXT):
                raise ValueError(f"captions: {name!r} cannot name a caption; use a plain word")

    def render(self, fields: Mapping[str, Any]) -> str:
        """The question about one clip.

        Raises:
            ValueError: a field has not the form that the template asks for.
        """
        known = {**fields, "json": Known(fields["json"])}
        try:
            asked = self.text.format_map(known)
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"the template does not fit its fields: {error}") from error
        keys = "\n".join(f"{json.dumps(n)}: {what}" for n, what in self.captions.items())
        return asked.rstrip() + _ORDER + keys

    def schema(self) -> dict[str, Any]:
        """The answer's JSON schema."""
        return {
            "type": "object",
            "properties": {name: {"type": "string"} for name in self.captions},
            "required": list(self.captions),
            "additionalProperties": False,
        }

    def parse(self, answer: str) -> dict[str, str]:
        """The captions in an answer: its last JSON object that has them all.

        Raises:
            BadAnswerError: there is none, or a caption is empty or no text.
        """
        if not answer.strip():
            raise BadAnswerError("the answer is empty")
        found = None
        decoder, at = json.JSONDecoder(), answer.find("{")
        while at >= 0:
            try:
                value, end = decoder.raw_decode(answer, at)
            except (ValueError, RecursionError):
                end = at + 1
            else:
                if isinstance(value, dict) and set(self.captions) <= set(value):
                    found = value
            at = answer.find("{", end)
        if found is None:
            raise BadAnswerError(f"no JSON object with {', '.join(self.captions)} in the answer")
        captions = {}
        for name in self.captions:
            caption = found[name]
            if not isinstance(caption, str) or not caption.strip():
                raise BadAnswerError(f"{name} is empty or no text")
            captions[name] = " ".join(caption.split()).encode(errors="replace").decode()
        return captions

    def recipe(self, made_by: Mapping[str, Any]) -> str:
        """What captions are made by: a hash of this request and of all that shapes its answers."""
        told = json.dumps([self.text, self.captions, dict(made_by)], sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
