"""A vision-language model behind an endpoint with OpenAI's protocol.

vLLM, Ollama, llama.cpp and cloud services support it. There is one exception for each way to handle
a failed request.
"""

import asyncio
import base64
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from data.recaption.ledger import Usage


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The text of an answer, and its token counts."""

    text: str
    usage: Usage


class TroubleError(Exception):
    """A temporary failure: retry, after `wait_s` seconds if the server says so."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class BusyError(TroubleError):
    """The server is busy: retry later; this does not count as a failed attempt."""


class RejectedError(Exception):
    """The server rejects this request: do not retry it."""


class HopelessError(ValueError):
    """The server rejects all requests, because of a wrong key, model or quota: end the run."""


class Model(ABC):
    """Answers requests about images."""

    name: str

    @abstractmethod
    async def ask(self, text: str, pictures: Sequence[bytes], schema: Mapping[str, Any]) -> Answer:
        """The answer to a request.

        Raises:
            TroubleError, BusyError, RejectedError, HopelessError: see their docstrings.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release resources."""


class Endpoint(Model):
    """A model behind an endpoint; the key is sent only there, and removed from error messages.

    Raises:
        ValueError: the `openai` library is missing.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        api_key: str = "",
        timeout_s: float = 180.0,
        structured: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            self._openai: Any = importlib.import_module("openai")
        except ImportError as error:
            raise ValueError(
                "captions: an endpoint needs the library openai, which is not installed; pip "
                "install 'cascade[captions]'"
            ) from error
        if not urlsplit(url).scheme.startswith("http") or not urlsplit(url).hostname:
            raise ValueError(
                f"captions: endpoint must be a URL such as http://localhost:8000/v1, got {url!r}; "
                "for a model in a folder set endpoint=local"
            )
        self.name, self.timeout_s = model, timeout_s
        self.structured, self.options = structured, dict(options or {})
        self._key = api_key
        self._client = self._openai.AsyncOpenAI(
            base_url=url, api_key=api_key or "none", max_retries=0, timeout=timeout_s
        )

    async def ask(self, text: str, pictures: Sequence[bytes], schema: Mapping[str, Any]) -> Answer:
        """The answer of one request."""
        content = [{"type": "text", "text": text}, *map(_picture, pictures)]
        options = dict(self.options)
        if self.structured:
            form = {"name": "captions", "schema": schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        openai = self._openai
        try:
            # The client's own timeout restarts with every received byte.
            async with asyncio.timeout(self.timeout_s):
                reply = await self._client.chat.completions.create(
                    model=self.name, messages=[{"role": "user", "content": content}], **options
                )
        except (TimeoutError, openai.APITimeoutError) as error:
            raise TroubleError(f"no answer in {self.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise TroubleError(self._clean(f"no connection: {cause}")) from None
        except openai.APIStatusError as error:
            raise self._as_failure(error) from None
        except (openai.APIError, ValueError) as error:
            raise TroubleError(self._clean(f"invalid answer: {error}")) from None
        return self._read(reply)

    def _read(self, reply: Any) -> Answer:
        try:
            choice = reply.choices[0]
            text = choice.message.content or ""
        except (AttributeError, IndexError, TypeError) as error:
            raise TroubleError("invalid answer: it has no choices") from error
        used = getattr(reply, "usage", None)
        prompt = getattr(used, "prompt_tokens", None)
        completion = getattr(used, "completion_tokens", None)
        metered = isinstance(prompt, int) and isinstance(completion, int)
        counts = {"prompt": prompt, "completion": completion} if metered else {"unmetered": 1}
        return Answer(text=str(text), usage=Usage(answers=1, **counts))

    def _as_failure(self, error: Any) -> Exception:
        """The exception for an HTTP status."""
        status = error.status_code
        text = self._clean(f"{status}: " + error.message.removeprefix(f"Error code: {status} - "))
        if status in (401, 402, 403, 404) or error.code == "insufficient_quota":
            return HopelessError(f"captions: the endpoint rejects all requests: {text}")
        wait = retry_after(error.response.headers)
        if status == 429:
            return BusyError(text, wait_s=wait)
        if status in (408, 409, 425) or status >= 500:
            return TroubleError(text, wait_s=wait)
        return RejectedError(text)

    def _clean(self, text: str) -> str:
        """A text on one line, of limited length, without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:300]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _picture(jpeg: bytes) -> dict[str, Any]:
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait according to a server's headers: seconds, milliseconds, or a date."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
