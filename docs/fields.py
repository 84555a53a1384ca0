"""Writes the table of config fields in docs/configuration.md.

    python -m docs.fields

Effects come from the comments of configs/default.py, defaults from its values,
valid values from job/config/ranges.py.
"""

import pathlib
import re

from configs import default
from job.config import ranges, serialization

_PAGE = pathlib.Path(__file__).parent / "configuration.md"
_FIELD = re.compile(r"    config\.([a-z_0-9.]+) = (?!ml_collections)")


def comments() -> list[tuple[tuple[str, ...], str]]:
    """Returns groups of fields with the comment that stands above them."""
    groups: list[tuple[tuple[str, ...], str]] = []
    comment: list[str] = []
    for line in pathlib.Path(default.__file__).read_text().splitlines():
        if line.startswith("    # "):
            comment.append(line.removeprefix("    # "))
        elif found := _FIELD.match(line):
            if comment or not groups:
                groups.append(((found[1],), " ".join(comment)))
            else:
                names, text = groups[-1]
                groups[-1] = ((*names, found[1]), text)
            comment = []
        else:
            comment = []
    return groups


def table() -> str:
    """Returns the Markdown table of all fields."""
    values = serialization.flatten(default.get_config())
    lines = [
        "| field | default | valid | effect |",
        "| --- | --- | --- | --- |",
    ]
    for names, comment in comments():
        valid = []
        for name in names:
            known = ranges.RANGES.get(name)
            text = known.expected if known else "true, false"
            valid.append(text)
        # One per line, as the fields, unless all are equal.
        valid = valid[:1] if len({*valid}) == 1 else valid
        row = (
            "<br>".join(f"`{name}`" for name in names),
            "<br>".join(f"`{values[name]!r}`" for name in names),
            "<br>".join(valid),
            comment,
        )
        lines.append(
            "| " + " | ".join(x.replace("|", r"\|") for x in row) + " |"
        )
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Returns a page with the table between its two markers."""
    pattern = re.compile(r"(<!-- fields -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{table()}{match[2]}", page)


if __name__ == "__main__":
    _PAGE.write_text(with_table(_PAGE.read_text()))
