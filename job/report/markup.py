"""Building blocks of the page: escaped text, numbers, sections, tables.

    section("Classes", pair([figure("", svg), table(["class"], rows)]))

Every function returns HTML. Arguments named as text are escaped; those named as
HTML or SVG are inserted as they are.
"""

import base64
import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any


def section(title: str, content: str) -> str:
    """Returns a section; the title is text, the content is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def pair(parts: Sequence[str]) -> str:
    """Returns parts side by side, or one below the other on a narrow page."""
    return f'<div class="pair">{"".join(parts)}</div>'


def figure(title: str, chart: str, note: str = "") -> str:
    """Returns an SVG chart with a title and a note, both text."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return f"<figure>{head}{chart}{caption}</figure>"


def missing(text: str) -> str:
    """Returns the paragraph that stands where a file of the run is absent."""
    return f'<p class="missing">{escape(text)}</p>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; its heads are text, its cells are HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}'
        "</tbody></table></div>"
    )


def data_url(png: bytes) -> str:
    """Returns a URL that contains a PNG image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def escape(value: Any) -> str:
    """Returns a value as text that cannot become markup."""
    return html.escape(str(value))


def breakable(name: str) -> str:
    """Returns a field's name that may be broken between two lines."""
    return re.sub(r"([._/])", r"\1<wbr>", escape(name))


def json_value(value: Any) -> str:
    """Returns a value as JSON, in the font of code."""
    text = json.dumps(value)
    shown = breakable(text) if isinstance(value, str) else escape(text)
    return f"<code>{shown}</code>"


def percent(fraction: Any) -> str:
    """Returns a fraction as a percentage; "" if it is not a number."""
    return number(fraction if fraction is None else 100 * fraction, ".2f", " %")


def number(value: Any, form: str, unit: str = "") -> str:
    """Returns a number as text; "" if it is not a finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return format(value, form) + unit


def duration(seconds: Any) -> str:
    """Returns a duration in two units; "" if it is not a finite number."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
