"""Templates of the pages and of the model card.

    page = render.html("page.html.j2", run=run, svg=svg)
    card = render.markdown("card.md.j2", run=run)

Names of runs, classes, files and fields come from people and from files. Each
text in a template is therefore escaped for its format, and control characters
become visible. Only `markupsafe.Markup` is inserted unchanged.
"""

import base64
import functools
import io
import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any, TypeGuard

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from job.errors import printable

_FOLDER = pathlib.Path(__file__).parent
# Punctuation with a meaning in Markdown or HTML, except an underscore within a
# word.
_SPECIAL = re.compile(r"[&<>|*`\[\]\\#~$]|(?<![^\W_])_|_(?![^\W_])")


def html(template: str, **values: Any) -> bytes:
    """Returns a page in UTF-8.

    Args:
      template: File name of the template.
      **values: Variables of the template.
    """
    page = _environment(printable).get_template(template).render(values)
    return page.encode()


def markdown(template: str, **values: Any) -> str:
    """Returns a text in GitHub's Markdown.

    Args:
      template: File name of the template.
      **values: Variables of the template.
    """
    environment = _environment(escape_markdown)
    return environment.get_template(template).render(values)


def escape_markdown(text: str) -> Markup:
    """Returns a text with its Markdown and HTML escaped, for a table cell."""
    return Markup(_SPECIAL.sub(lambda m: f"&#{ord(m[0])};", printable(text)))


def code_markdown(value: Any) -> Markup:
    """Returns a text as a code span for a table cell."""
    text = printable(str(value)).replace("|", r"\|")
    runs = [len(ticks) for ticks in re.findall("`+", text)]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if runs else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def breakable(value: Any) -> Markup:
    """Returns HTML with break points between the words of a path or field."""
    text = str(escape(printable(str(value))))
    return Markup(re.sub(r"([._/])(?=[a-zA-Z])", r"\1<wbr>", text))


def percent(fraction: Any) -> str:
    """Returns a fraction as a percentage, or "" if it is not a number."""
    return number(fraction, ".2%")


def number(value: Any, form: str = ",.0f", unit: str = "") -> str:
    """Returns a number as text, or "" if it is not finite.

    Args:
      value: Value, which may have any type.
      form: Format of the number.
      unit: Unit after the number.
    """
    return format(value, form) + unit if is_number(value) else ""


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a number that float32 can represent."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -3e38 < value < 3e38
    )


def duration(seconds: Any) -> str:
    """Returns a duration in two units, or "" if it is not a finite number."""
    if not is_number(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def plural(count: float, noun: str) -> str:
    """Returns a count with its noun, as in "1 step" and "1,000 steps"."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def png(image: np.ndarray) -> bytes:
    """Returns an image, uint8 [h, w, 3], as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """Returns a URL that contains a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def shorten(text: str, length: int = 28) -> str:
    """Returns a text of at most `length` characters without its middle."""
    if len(text) <= length:
        return text
    head = math.ceil(length / 2) - 1
    return f"{text[:head]}…{text[head + 1 - length :]}"


@functools.cache
def _environment(escape_text: Callable[[str], str]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        # Markup is a string that is already escaped.
        finalize=lambda v: escape_text(v) if type(v) is str else v,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        *(breakable, data_url, duration, number),
        *(percent, plural, png, shorten),
    )
    environment.filters |= {each.__name__: each for each in filters}
    environment.filters |= {"code": code_markdown, "json": json.dumps}
    return environment
