"""Wrong input: one line that says what to do, exit code 2, no traceback, nothing computed."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from standins import call, make_demonstrations, verb, write_record

SMOKE = ["--tasks", "avoiding", "--methods", "beso", "--budget", "smoke", "--workers", "0"]


def refused(capsys, code):
    """The message of a refused command, checked for form."""
    shown = capsys.readouterr()
    assert code == 2, shown
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown.err
    assert "Traceback" not in shown.err + shown.out
    return shown.err


@pytest.fixture
def data(tmp_path):
    return make_demonstrations(tmp_path / "data")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--methods", "vdd_vee"], "unknown method 'vdd_vee'. Did you mean 'vdd_ve'?"),
        (["--methods", "../../etc"], "unknown method"),
        (["--methods", ""], "no method given"),
        (["--methods", "vdd_ve", "--teacher", "bezo"], "unknown teacher 'bezo'. Did you mean 'beso'?"),
        (["--methods", "vdd", "--teacher", "mode"], "vdd_vp cannot distil it (cd distils beso;"),
        (["--methods", "beso,ve1", "--teacher", "mode"], "no student among the methods asked for"),
        (["--tasks", "avoidng"], "unknown task 'avoidng'. Did you mean 'avoiding'?"),
        (
            ["--tasks", "avoiding", "--encoder-weights", "none"],
            "--encoder-weights is for tasks with images. Got avoiding",
        ),
        (["--tasks", "sorting_image", "--encoder-weights", "none"], "cannot read --encoder-weights"),
        (["--budget", "standrad"], "unknown budget 'standrad'. Did you mean 'standard'?"),
        (
            ["--set", "vdd_ve.componets=4"],
            "unknown hyper-parameter 'componets' in --set vdd_ve.KEY=VALUE. Did you mean",
        ),
        (["--set", "vdd.components=4"], "unknown method 'vdd'"),
        (["--set", "components=4"], "method.key=value"),
        (["--methods", "beso", "--set", "vdd_ve.components=4"], "which this plan does not run"),
        (["--seeds", "four"], "--seeds"),
        (["--seeds", "-1"], "--seeds"),
        (["--workers", "-1"], "--workers"),
        (["--workers", "two"], "--workers"),
        (["--threads", "0"], "--threads"),
        (["--device", "gpu"], "--device must be"),
        (["--nonsense"], "--nonsense"),
        (["--out", "/dev/null/x"], "--out /dev/null/x is not writable"),
        (["--data-root", "/nonexistent"], "data root /nonexistent"),
        (["--suites", "/nonexistent"], "cannot read the suite file"),
    ],
)
def test_options(argv, says, data, capsys):
    options = argv if "--data-root" in argv else [*argv, "--data-root", str(data)]
    options = options if "--tasks" in argv else [*options, "--tasks", "avoiding"]
    assert says in refused(capsys, call(*options, "--dry-run"))


def test_hyper_parameter_of_the_wrong_value(data, tmp_path, capsys):
    out = tmp_path / "out"
    code = call(
        "--tasks", "avoiding", "--methods", "cd", "--set", "cd.N=1", "--data-root", str(data), "--out", str(out)
    )
    assert "N must be at least 2" in refused(capsys, code)
    assert not (out / "records").exists()


def test_cuda_without_a_gpu(data, tmp_path, capsys):
    import torch

    absent = f"cuda:{torch.cuda.device_count()}"
    code = call(*SMOKE, "--device", absent, "--data-root", str(data), "--out", str(tmp_path / "out"))
    assert f"--device {absent}" in refused(capsys, code)


def test_empty_data_root(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "nothing for task 'avoiding'" in refused(capsys, call(*SMOKE, "--data-root", str(tmp_path / "empty")))


class Hostile:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def nan(robot):
    robot["c_pos"][3, 1] = np.nan


def wide(robot):
    robot["des_c_pos"] = np.zeros((70, 4))


@pytest.mark.parametrize("kind", ["truncated", "hostile", "nan", "wide", "text"])
def test_bad_demonstrations(kind, data, tmp_path, capsys):
    path = data / "d3il" / "avoiding" / "data" / "env_002_00.pkl"
    content = pickle.loads(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "hostile":
        path.write_bytes(pickle.dumps({"robot": Hostile(tmp_path / "executed")}))
    elif kind == "text":
        path.write_text("no pickle")
    else:
        {"nan": nan, "wide": wide}[kind](content["robot"])
        path.write_bytes(pickle.dumps(content))
    out = tmp_path / "out"
    message = refused(capsys, call(*SMOKE, "--data-root", str(data), "--out", str(out)))
    assert "env_002_00.pkl" in message
    assert not (tmp_path / "executed").exists() and not (out / "records").exists()


def test_a_record_of_another_configuration(data, tmp_path, capsys):
    path = write_record(tmp_path / "out", "avoiding", "beso", 0, config_hash="another")
    before = path.read_bytes()
    message = refused(capsys, call(*SMOKE, "--data-root", str(data), "--out", str(tmp_path / "out")))
    assert "--overwrite" in message and path.read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["lss"], "unknown verb 'lss'. Did you mean 'ls'?"),
        (["status", "--out", "/nonexistent"], "no folder"),
        (["status"], "--out"),
        (["tables", "--out", "/nonexistent"], "no folder"),
        (["tables", "--out", "OUT", "--table", "9"], "no table '9'"),
        (["tables", "--out", "OUT", "--format", "markdown"], "unknown format 'markdown'"),
        (["ship", "--out", "OUT"], "no teachers were planned"),
        (["data", "forget"], "invalid choice"),
        (["data", "describe", "--tasks", "toi"], "unknown task 'toi'. Did you mean 'toy'?"),
    ],
)
def test_verbs(argv, says, tmp_path, capsys):
    assert says in refused(capsys, verb(*(str(tmp_path) if word == "OUT" else word for word in argv)))


def test_a_message_is_one_line_whatever_was_typed(data, capsys):
    assert "unknown task" in refused(capsys, call("--tasks", "a\nb\n" * 500, "--data-root", str(data)))


def test_a_record_cut_off_in_the_middle_is_set_aside_and_run_again(data, tmp_path, capsys):
    options = [
        *SMOKE,
        "--set",
        "beso.steps=2",
        "--set",
        "beso.rollouts=2",
        "--data-root",
        str(data),
        "--out",
        str(tmp_path),
    ]
    assert call(*options) == 0
    path = tmp_path / "records" / "avoiding" / "beso" / "0.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert call(*options) == 0
    shown = capsys.readouterr().out
    assert "cut off" in shown and "0.json.corrupt-1" in shown
    assert path.with_name("0.json.corrupt-1").read_bytes() == whole[: len(whole) // 2]
    from harness import record

    assert record.read(path)["status"] == "done"
