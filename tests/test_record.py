"""Records: whole or not at all."""

import json
import math

import pytest
from standins import done_record, write_record

from harness import plan, record, sealed


def test_round_trip(tmp_path):
    path = write_record(tmp_path, "avoiding", "beso", 0)
    found = record.read(path, "avoiding/beso/0")
    assert found["metrics"] == {"success": 0.5, "entropy": 0.25}
    assert record.state(tmp_path, "avoiding/beso/0", "h").name == "done"
    assert record.state(tmp_path, "avoiding/beso/0", "other").name == "other"
    assert record.state(tmp_path, "avoiding/beso/1", "h").name == "missing"
    assert [p.name for p in path.parent.iterdir()] == ["0.json"]  # nothing temporary is left


def test_numpy_values_become_json(tmp_path):
    import numpy as np

    content = done_record("avoiding", "beso", 0, metrics={"success": np.float32(0.5)})
    content["episodes"] = {"success": np.array([True, False]), "length": [np.int64(3), 4]}
    found = record.write(tmp_path / "0.json", content)
    assert found == record.read(tmp_path / "0.json")
    assert found["episodes"] == {"success": [True, False], "length": [3, 4]}


def test_every_cut_is_noticed(tmp_path):
    path = write_record(tmp_path, "avoiding", "beso", 0)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:size])
        assert record.state(tmp_path, "avoiding/beso/0", "h").name == "corrupt"


def test_every_changed_value_is_noticed(tmp_path):
    path = write_record(tmp_path, "avoiding", "beso", 0)
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(bytes(flipped))
        found = record.state(tmp_path, "avoiding/beso/0", "h")
        assert found.name == "corrupt" or json.loads(whole) == found.record  # white space may change


@pytest.mark.parametrize("text", ["", "[]", "null", '{"schema": 1}', '{"schema": 2}', "[" * 100_000, '{"a": NaN}'])
def test_other_files_are_no_records(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(record.InvalidRecord):
        record.read(tmp_path / "x.json")


def test_a_number_too_large_to_be_one_is_damage(tmp_path):
    """A flipped byte can turn 1e-99 into 1e999, which Python reads as infinity."""
    path = write_record(tmp_path, "avoiding", "beso", 0)
    text = path.read_text()
    for name in ("metrics", "timings", "episodes", "config"):
        assert text.count(f'"{name}": {{') == 1
        path.write_text(text.replace(f'"{name}": {{', f'"{name}": {{"x": 1e999, '))
        assert record.state(tmp_path, "avoiding/beso/0", "h").name == "corrupt"
    sealed.write_json(tmp_path / "chunk.json", {"return": [0.5]})
    (tmp_path / "chunk.json").write_text((tmp_path / "chunk.json").read_text().replace("0.5", "1e999"))
    with pytest.raises(sealed.Damaged, match="not finite"):
        sealed.read_json(tmp_path / "chunk.json")
    (tmp_path / "plan.json").write_text('{"schema": 1, "seeds": [1e999]}')
    with pytest.raises(record.InvalidRecord):
        plan.read_plan(tmp_path / "plan.json")


def test_a_record_of_another_cell_is_refused(tmp_path):
    path = write_record(tmp_path, "avoiding", "beso", 0)
    path.rename(path.with_name("1.json"))
    assert record.state(tmp_path, "avoiding/beso/1", "h").name == "corrupt"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, value):
    with pytest.raises(ValueError, match="cannot hold"):
        record.write(tmp_path / "0.json", done_record("avoiding", "beso", 0, metrics={"success": value}))
    assert not (tmp_path / "0.json").exists()


def test_setting_aside_keeps_every_file(tmp_path):
    names = []
    for i in range(3):
        (tmp_path / "0.json").write_text(str(i))
        names.append(record.set_aside(tmp_path / "0.json", "corrupt").name)
    assert names == ["0.json.corrupt-1", "0.json.corrupt-2", "0.json.corrupt-3"]
    assert (tmp_path / "0.json.corrupt-3").read_text() == "2"


def test_comparable_leaves_timings_and_provenance_out():
    kept = record.comparable(done_record("avoiding", "beso", 0))
    assert "metrics" in kept and "episodes" in kept and not kept.keys() & {"timings", "provenance", "checksum"}


def test_seeds_depend_on_cell_purpose_and_index_alone():
    from harness.seeds import derive

    drawn = {derive(c, p, i) for c in ("a/b/0", "a/b/1") for p in ("train", "rollout") for i in range(3)}
    assert len(drawn) == 12 and all(0 <= s < 2**63 for s in drawn)
    assert derive("avoiding/beso/0", "train", 0) == 4303289292483484749
