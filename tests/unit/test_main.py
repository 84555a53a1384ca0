"""Command line: each wrong input gives its exit code and one clear line."""

import os
import re
import resource
import subprocess
import sys
import textwrap

import pytest

from job import flags
from tests.support.jobs import ROOT, job_command, run_job

SMOKE = "--config=configs/smoke.py"
# This name is longer than the limit of a file's name.
LONG = "x" * 300


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--config is missing"),
        (["--confg=x"], "--confg=x: unknown flag. Fix: use --config=x"),
        (["--mode=fly", SMOKE], "fly"),
        ([SMOKE], "--workdir is missing"),
        ([SMOKE, "--workdir=gs://"], "gs://BUCKET/PATH"),
        ([SMOKE, "--workdir=Makefile"], "Makefile is a file, not a folder"),
        ([SMOKE, "--workdir=Makefile/x/y"], "Makefile is a file, not a folder"),
        (["--config=configs/none.py", "--workdir=x"], "configs/none.py"),
        (
            ["--config=configs/stem32.py:9ep", "--workdir=x"],
            "unknown variant '9ep'",
        ),
        (["--config=configs/smoke.py:8ep", "--workdir=x"], "has no variants"),
        ([SMOKE, "--workdir=x", "--config.data.dir=y"], "must be empty"),
        (["--mode=predict", "--workdir=x", "--input="], "--input is missing"),
        (["--mode=predict", "--input=x.png"], "--workdir is missing"),
        ([SMOKE, "--workdir=x", "--lr=1"], "use --config.optimizer.peak_lea"),
        (
            [SMOKE, "--workdir=x", "--config.lr=1"],
            "optimizer.peak_learning_rat",
        ),
        (["--config=smok", "--workdir=x"], "Fix: use --config=smoke"),
        (["--config=configs/augment_presets.py"], "does not define get_config"),
        ([SMOKE, "--workdir=x", "train"], "Fix: use --mode=train"),
        (
            [SMOKE, "--workdir=x", "--config.modl.width=1"],
            "config.model.width=1",
        ),
        ([SMOKE, "--workdir=x", "--config.model.width=wide"], "model.width"),
        ([SMOKE, "--workdir=x", "--config.global_batch_size=1.5"], "1.5"),
        (
            [SMOKE, "--workdir=x", "--config.optimizer.peak_learning_rate=-1"],
            "--config.optimizer.peak_learning_rate=-1.0: must be above 0",
        ),
        ([SMOKE, "--workdir=x", "--config.model.width=nan"], "model.width"),
        (
            [SMOKE, "--workdir=x", "--config.augment.preset=weak"],
            "--config.augment.preset=weak: must be empty or one of",
        ),
        ([SMOKE, "--workdir=x", "stray"], "stray: unexpected argument"),
        (["--config=LICENSE", "--workdir=x"], "LICENSE"),
        ([SMOKE, "--workdir=x", "--config.nosuch=3"], "unknown field"),
        ([SMOKE, "--workdir=x", "--config.seed[0]=1"], "seed[0]"),
        (
            [SMOKE, "--workdir=x", "--config.epochs=1e308"],
            "--config.epochs=1e+308: must be 0 to 1,000,000",
        ),
        (["--mode=evaluate", "--workdir=tests"], "no config.json"),
        (["--flagfile=nosuch", SMOKE, "--workdir=x"], "nosuch"),
        ([SMOKE, "--workdir=x", "--grace_seconds=0"], "above 0"),
        ([SMOKE, "--workdir=x", "--grace_seconds=nan"], "--grace_seconds=nan"),
        ([SMOKE, "--workdir=x", "--watchdog_seconds=-1"], "at least 0"),
        ([SMOKE, "--workdir=x", "--grace_seconds=1e10"], "2592000 (30 days)"),
        (
            [SMOKE, "--workdir=x", "--watchdog_seconds=1e300"],
            "2592000 (30 days)",
        ),
        ([SMOKE, "--workdir=x", "--upload_seconds=nan"], "=nan"),
        ([SMOKE, "--workdir=x", "--heartbeat_file=/dev/null"], "/dev/null"),
        ([SMOKE, "--workdir=x", f"--heartbeat_file={LONG}"], "too long"),
        ([SMOKE, f"--workdir={LONG}"], "too long"),
        (["--mode=evaluate", f"--workdir={LONG}"], "too long"),
        ([SMOKE, "--workdir=bad\udcff"], "is not UTF-8"),
        (["--config=/dev/zero", "--workdir=x"], "not a regular file"),
        ([SMOKE, "--workdir=x", "--heartbeat_file=no/x"], "cannot be written"),
        ([SMOKE, "--config.checkpoint.on_nonfinite=fly"], "stop, rollback"),
    ],
)
def test_a_wrong_flag_ends_with_2_in_one_line_within_2_seconds(args, said):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_job(*args)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("config error: ")
    assert said in line
    # Processor time does not depend on other load. TensorFlow alone takes 4 s.
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    )


def test_a_required_gpu_that_is_absent_ends_with_69(tmp_path):
    done = run_job(
        SMOKE, f"--workdir={tmp_path}/run", "--config.distribute.require_gpus=1"
    )
    assert done.returncode == 69
    line = done.stderr.strip().splitlines()[-1]
    assert re.match(r"device error: .*require_gpus=1: TensorFlow found 0", line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "body",
    [
        "raise RuntimeError('boom')",
        "1 / 0",
        "import sys; sys.exit(9)",
        "def get_config(): return None",
        "def get_config(): return 5",
        "def get_config(): raise KeyboardInterrupt",
        "def get_config(): return get_config()",
        "def get_config(:",
    ],
)
def test_a_config_file_that_fails_ends_with_2_in_one_line(tmp_path, body):
    path = tmp_path / "own.py"
    path.write_text(body + "\n")
    done = run_job(f"--config={path}", "--mode=config")
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("config error: ")
    assert "Traceback" not in done.stderr


def test_a_batch_that_does_not_split_ends_with_2(tmp_path):
    done = run_job(
        SMOKE,
        f"--workdir={tmp_path}/run",
        "--config.distribute.logical_devices=2",
        "--config.global_batch_size=65",
    )
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "--config.global_batch_size=65: must be" in line
    assert not (tmp_path / "run").exists()


def test_data_that_is_absent_ends_with_3(tmp_path):
    done = run_job(
        "--config=configs/stem32.py:10ep",
        f"--workdir={tmp_path}/run",
        f"--config.data.dir={tmp_path}/nothing",
    )
    assert done.returncode == 3
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("data error: ")
    assert "the path does not exist" in line


def test_mode_config_prints_the_resolved_config():
    # The flags have an unusual order, and `python -m job` starts the job.
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "job",
                "--config.optimizer.momentum",
                "0.5",
            ),
            *("--mode=config", "--config", "stem32:10ep", "--config.epochs=3"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "momentum: 0.5" in done.stdout
    assert "epochs: 3.0" in done.stdout
    assert "muon_ratio: 0.125" in done.stdout


def test_a_preset_sets_only_the_fields_not_on_the_command_line():
    done = run_job(
        SMOKE,
        "--mode=config",
        "--config.augment.cutout_pixels=4",
        "--config.augment.preset=strong",
    )
    assert done.returncode == 0
    assert "autoaugment: 1.0" in done.stdout
    assert "cutout_pixels: 4.0" in done.stdout


def test_an_image_requires_gpus_by_its_environment(monkeypatch):
    monkeypatch.setenv("JOB_REQUIRE_GPUS", "2")
    done = run_job(SMOKE, "--mode=config")
    # config.json has what the user set.
    assert "require_gpus: 0" in done.stdout
    monkeypatch.setenv("JOB_REQUIRE_GPUS", "all")
    done = run_job(SMOKE, "--mode=config")
    assert done.returncode == 2
    assert "JOB_REQUIRE_GPUS=all" in done.stderr


def test_the_gpus_of_an_image_exclude_a_split_cpu(monkeypatch):
    monkeypatch.setenv("JOB_REQUIRE_GPUS", "1")
    done = run_job(
        SMOKE, "--mode=config", "--config.distribute.logical_devices=2"
    )
    assert done.returncode == 2
    assert "--config.distribute.logical_devices=2: must be 0" in done.stderr


@pytest.mark.parametrize("apart", [False, True])
def test_fields_reach_the_runs_of_an_ablation(tmp_path, apart):
    file = tmp_path / "run.flags"
    file.write_text(
        "# As a cluster's ConfigMap has them.\n--mode=ablate\n"
        "--config=configs/ablations.py:ladder\n"
        + ("" if apart else "--config.data.dir=/no/such\n")
    )
    more = ("--config.data.dir", "/no/such") if apart else ()
    done = run_job(
        *(f"--workdir={tmp_path}/a", f"--flagfile={file}", "--index=1", *more)
    )
    # Without the flag, the run would download the images.
    assert done.returncode == 3, done.stderr
    assert "/no/such: the path does not exist" in done.stderr


def test_mode_fetch_finds_or_misses_the_images_as_a_run_does(
    tmp_path, cifar10_dir
):
    # A download would go to an empty folder only.
    (tmp_path / "photo.png").touch()
    wrong, right = (
        run_job(
            "--mode=fetch",
            "--config=configs/stem32.py",
            f"--config.data.dir={folder}",
        )
        for folder in (tmp_path, cifar10_dir)
    )
    assert wrong.returncode == 3
    assert "CIFAR-10 was not found" in wrong.stderr
    assert right.returncode == 0, right.stderr
    assert "50,000 training and 10,000 test images" in right.stdout


def test_help_has_examples_and_all_flags_by_mode():
    done = run_job("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Train VGG16 on CIFAR-10")
    assert done.stdout.count("  python -m job.main --") == 4
    assert max(map(len, done.stdout.splitlines())) <= 80
    shown = re.findall(r"^  --(\w+)=", done.stdout, re.MULTILINE)
    defined = flags.flags.FLAGS.flags_by_module_dict()[flags.__name__]
    assert sorted(shown) == sorted(flag.name for flag in defined)
    for mode in flags.MODES:
        assert f"\n  {mode} " in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "job.supervision",
        "ctypes",
        "job.supervision.termination",
        "absl",
        "h5py",
    ],
)
def test_sigint_during_any_import_ends_with_75(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import signal, sys
            # A shell's background processes ignore SIGINT.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            class Interrupt:
                def find_spec(name, path, target=None):
                    if name == "{module}":
                        sys.meta_path.remove(Interrupt)
                        signal.raise_signal(signal.SIGINT)
            sys.meta_path.insert(0, Interrupt)
        """)
    )
    done = run_job(
        *(SMOKE, f"--workdir={tmp_path}/run"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 75, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("preempted: stopped by SIGINT: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    "streams",
    [
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        "> /dev/full",
        "2> /dev/full",
        "| true",
        "2>&1 | true",
    ],
)
@pytest.mark.parametrize(("config", "code"), [("smoke", 0), ("none", 2)])
def test_closed_streams_change_no_exit_code(streams, config, code):
    command = job_command("--mode=config", f"--config=configs/{config}.py")
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'"$@" {streams}; exit ${{PIPESTATUS[0]}}',
            "",
            *command,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr + done.stdout
