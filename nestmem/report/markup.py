"""HTML that is safe by construction: a plain string put into an element is escaped, an `Html` is not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# What HTML does not allow in text: control characters, tabs and ends of lines aside.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
VOID = frozenset({"br", "wbr", "meta"})


class Html(str):
    """Markup that is ready: made by `tag`, `join` and `escape`, never from data."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Any text as HTML. What cannot stand in a page (control characters, half surrogates) becomes a mark.

    >>> escape('<b a="1">&')
    '&lt;b a=&quot;1&quot;&gt;&amp;'
    >>> escape(escape("<"))
    '&lt;'
    """
    if isinstance(text, Html):
        return text
    plain = str(text).encode("utf-8", "replace").decode("utf-8")
    return Html(html.escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", plain), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after another, each escaped unless it is `Html`."""
    return Html(escape(between).join(escape(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. Of an attribute's name a last "_" falls away and others become "-"; None leaves it out.

    >>> tag("td", "a < b", class_="n", title=None)
    '<td class="n">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def breakable(name: str) -> Html:
    """A long name that may go on in the next line after its punctuation.

    >>> breakable("bm25:unit=session")
    'bm25:<wbr>unit=<wbr>session'
    """
    return join(re.split(r"(?<=[:,=/_-])(?=\w)", name), tag("wbr"))


def items(lines: Iterable[object]) -> Html:
    """An unordered list."""
    return tag("ul", *(tag("li", line) for line in lines))


def table(caption: str, head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table with a caption; the first cell of each row is its heading. It scrolls sideways when it is wide."""
    first = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [
        tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))
        for cells in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", first), tag("tbody", *body))
    return tag("div", whole, class_="wide", role="region", tabindex="0", aria_label=caption)


def section(key: str, title: str, *children: object) -> Html:
    """A part of the page that the list of contents leads to."""
    return tag("section", tag("h2", title), *children, id=key)
