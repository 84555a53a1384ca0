"""Tests that the commands in README.md and docs/ can be pasted.

The make targets are expanded, and the job's own parser reads the flags. Nothing
is run.
"""

import importlib.util
import pathlib
import re
import shlex
import subprocess

import pytest

from tests.support import manifests
from tests.support.jobs import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a line of a shell begins with, in a block that is not fenced as bash.
_PROGRAMS = "make|python|docker|kubectl|git clone|pip"
# An alternative, an optional part or an omission cannot be pasted.
_NOTATION = re.compile(r"\S\|\S|\[[A-Za-z-]|\.\.\.|<[a-z ]+>")


def commands(page: pathlib.Path) -> list[str]:
    """Returns the commands in a page's bash blocks, without comments."""
    found = []
    for language, block in _FENCE.findall(page.read_text()):
        if language == "bash":
            joined = block.replace("\\\n", " ")
            lines = (line.partition(" #")[0] for line in joined.splitlines())
            found += [x.strip() for x in lines if x.strip(" #")]
    return [line for line in found if not line.startswith("#")]


def unfenced(text: str) -> list[str]:
    """Returns the commands of a page that are in no bash block."""
    blocks = [block for lang, block in _FENCE.findall(text) if lang != "bash"]
    blocks.append(
        "\n".join(
            line[4:]
            for line in _FENCE.sub("", text).splitlines()
            if line.startswith("    ")
        )
    )
    pattern = rf"^\$? ?(?:{_PROGRAMS}) .*"
    return re.findall(pattern, "\n".join(blocks), re.MULTILINE)


def job_arguments(command: str) -> list[list[str]]:
    """Returns the arguments that a command gives to the job, for each start.

    Raises:
      AssertionError: A target, a module or a folder does not exist.
    """
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["make"]:
        # The targets for a cluster refuse variables of this machine.
        machine = [] if words[1].startswith("k8s-") else ["SET=cpu"]
        expanded = subprocess.run(
            ["make", "--dry-run", *machine, "VENV=none", *words[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not expanded.returncode, f"{command}: {expanded.stderr}"
        lines = expanded.stdout.replace("\\\n", " ").splitlines()
        return [
            shlex.split(line)[3:]
            for line in lines
            if re.match(r"\S+ -m job\.main ", line)
        ]
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), command
        return [words[3:]] if words[2] in ("job", "job.main") else []
    if words[:2] == ["docker", "run"]:
        image = next(i for i, x in enumerate(words) if "vgg16-cifar10:" in x)
        return [words[image + 1 :]] if len(words) > image + 1 else []
    if words[:1] == ["kubectl"] and "-k" in words:
        folder = ROOT / words[words.index("-k") + 1]
        assert (folder / "kustomization.yaml").exists(), command
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_accepted(page):
    written = commands(page)
    checked = subprocess.run(
        ["bash", "-n"],
        input="\n".join(written),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.stderr
    started = [(c, line) for c in written for line in job_arguments(c)]
    said = manifests.refused([line for _, line in started]) if started else []
    assert not [x for x in zip(started, said, strict=True) if x[1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_in_a_bash_block(page):
    assert not unfenced(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_needs_editing_of_its_notation(page):
    assert not [c for c in commands(page) if _NOTATION.search(c)]


def test_a_wrong_command_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nmake train ARGS=--config.lr=1  # a comment\n"
        "python -m job --config=smoke \\\n    --workdir=runs/a\n```\n"
        "    make train\n"
    )
    (typed,), (right,) = map(job_arguments, commands(page))
    first, second = manifests.refused([typed, right])
    assert "peak_learning_rate" in first
    assert not second
    assert unfenced(page.read_text()) == ["make train"]
    with pytest.raises(AssertionError, match="No rule"):
        job_arguments("make absent")
    with pytest.raises(AssertionError):
        job_arguments("kubectl apply -k k8s/absent")
