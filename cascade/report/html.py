"""Build HTML from Python: text is escaped unless it is already `Html`."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Markup that needs no escaping."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as escaped text; `Html` is unchanged, None is a dash, numbers are formatted."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("–")
    if isinstance(value, float):
        return Html(f"{value:.4g}")
    if isinstance(value, int) and abs(value) >= 10_000:
        return Html(f"{value:,}")
    return Html(escape(str(value), quote=True))


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """An element; `class_` becomes class, `_` in a name a hyphen, True a bare attribute."""
    parts = [element]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        elif value is not None and value is not False:
            parts.append(f'{attribute}="{text(value)}"')
    opening = " ".join(parts)
    if element in VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(children)}</{element}>")


def join(children: Iterable[object]) -> Html:
    """The children one after the other, as escaped text."""
    return Html("".join(text(child) for child in children))


VOID = frozenset({"br", "hr", "img", "link", "meta", "source", "wbr"})
