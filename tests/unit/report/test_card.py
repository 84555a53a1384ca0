"""The model card of an export."""

from job.data import dataset
from job.report import card
from job.report import run as run_lib
from job.storage import files
from job.storage.workdir import RESULT
from tests.support.finished_run import NASTY


def test_the_card_tells_of_the_run_and_of_its_limits(workdir):
    run = run_lib.read(workdir)
    names = dataset.CLASS_NAMES
    text = card.write(run, step=20, class_names=names, crc32c="00c0ffee")
    for part in (
        "| test accuracy | 75.00 % |",
        "| expected calibration error | 15.00 % |",
        "| optimizer.momentum | `0.5` |",
        "crc32c `00c0ffee`",
        "0 airplane, 1 automobile",
        "Seed 0.",
        "{difference}",
        "Limits",
    ):
        assert part in text, part
    assert NASTY not in text  # Where the images lay is nobody's business.
    (workdir / "result.json").unlink()
    run = run_lib.read(workdir)
    text = card.write(run, step=15, class_names=names, crc32c="")
    assert "not finished: these are the weights of step 15" in text


def test_a_card_of_a_result_without_figures(workdir):
    path = workdir / RESULT
    result = files.read_json(path)
    for name in ("test_loss", "images_scored", "params"):
        result[name] = None
    files.write_json(path, result)
    text = card.write(
        run_lib.read(workdir),
        step=20,
        class_names=dataset.CLASS_NAMES,
        crc32c="",
    )
    assert "| test loss | unknown |" in text
