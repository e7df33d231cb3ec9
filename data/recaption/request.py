"""The request for a clip's captions, and the parsing of the answer."""

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
    """An answer without valid captions; the text is the reason."""


class Known(dict[str, Any]):
    """A sample's json in a template; missing keys are `unknown`."""

    def __missing__(self, name: str) -> str:
        return "unknown"


class Request:
    """A template for the prompt, and the requested captions by name, each with its description.

    Raises:
        ValueError: the template has an unknown field, or a caption has an invalid name.
    """

    def __init__(self, *, text: str, captions: Mapping[str, str]) -> None:
        self.text, self.captions = text, dict(captions)
        for _, field, _, _ in string.Formatter().parse(text):
            if field is not None and (field.partition("[")[0] not in FIELDS or "." in field):
                raise ValueError(
                    f"captions: the template has the unknown field {{{field}}}; the fields are "
                    f"{', '.join(FIELDS)}, and literal braces are written {{{{ and }}}}"
                )
        if not self.captions:
            raise ValueError("captions: a request must name at least one caption, got none")
        for name in self.captions:
            if not name.isidentifier() or name in (KEY, TEXT):
                raise ValueError(
                    f"captions: the name of a caption must be an identifier other than {KEY} and "
                    f"{TEXT}, got {name!r}"
                )

    def render(self, fields: Mapping[str, Any]) -> str:
        """The prompt for one clip.

        Raises:
            ValueError: a field does not match its format in the template.
        """
        known = {**fields, "json": Known(fields["json"])}
        try:
            prompt = self.text.format_map(known)
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"the template does not match its fields: {error}") from error
        keys = "\n".join(f"{json.dumps(n)}: {what}" for n, what in self.captions.items())
        return prompt.rstrip() + _ORDER + keys

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer."""
        return {
            "type": "object",
            "properties": {name: {"type": "string"} for name in self.captions},
            "required": list(self.captions),
            "additionalProperties": False,
        }

    def parse(self, answer: str) -> dict[str, str]:
        """The captions in an answer: the last JSON object that has all of them.

        Raises:
            BadAnswerError: there is no such object, or a caption is empty or not a text.
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
                raise BadAnswerError(f"{name} is empty or not a text")
            captions[name] = " ".join(caption.split()).encode(errors="replace").decode()
        return captions

    def recipe(self, made_by: Mapping[str, Any]) -> str:
        """A hash of this request and of all settings that influence its answers."""
        text = json.dumps([self.text, self.captions, dict(made_by)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
