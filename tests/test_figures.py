"""Figures from records: what they show, what they lack, and roll-outs of a trained student for Figure 4."""

import json

import numpy as np
import pytest
from standins import call, make_demonstrations, verb, write_record

from harness import films, record, registry, sealed
from harness.errors import UserError
from harness.figures import ablations, experts, profiles, style

SUITES = registry.load_suites()


def scores(success, entropy):
    return {"success": success, "entropy": entropy, "success_1": success - 0.1, "entropy_1": entropy / 2}


@pytest.fixture
def studies(tmp_path):
    """Z = 1 and 8 on two seeds, learned gating on two tasks, one kind of noise levels."""
    for seed in (0, 1):
        write_record(tmp_path / "experts/1", "avoiding", "vdd_ve", seed, metrics=scores(1.0, 0.0))
        write_record(tmp_path / "experts/8", "avoiding", "vdd_ve", seed, metrics=scores(0.9 + 0.1 * seed, 0.7))
        for task in ("avoiding", "stacking"):
            write_record(tmp_path / "gating/learned", task, "vdd_ve", seed, metrics=scores(0.9, 0.4))
    write_record(tmp_path / "levels/min", "avoiding", "vdd_ve", 0, metrics=scores(0.8, 0.3))
    write_record(tmp_path / "levels/max", "avoiding", "beso", 0)  # another method's
    return tmp_path


def test_figure_3_reads_seeds_and_what_the_paper_prints(studies):
    found = ablations.load(studies)
    eight = found.points["experts", "avoiding", "success"]["8"]
    assert (eight.values, eight.mean, eight.std) == ((0.9, 1.0), pytest.approx(0.95), pytest.approx(0.05))
    assert eight.paper_mean == 0.95 and found.points["experts", "avoiding", "entropy"]["8"].paper_mean == 0.72
    assert found.points["experts", "avoiding", "entropy"]["1"].paper_mean == 0.0  # section 5.5
    assert found.points["experts", "avoiding", "success"]["1"].paper_mean is None
    stacking = found.points["gating", "stacking", "success"]["learned"]
    assert stacking.values == (pytest.approx(0.8),) * 2 and stacking.paper_mean == 0.85  # Stacking-1
    assert found.points["gating", "stacking", "entropy"]["fixed"].values == ()
    assert found.points["levels", "avoiding", "success"]["max"].values == ()


def test_figure_3_says_what_is_missing(studies):
    missing = "\n".join(ablations.load(studies).missing)
    for variant in ("experts/2", "experts/32", "gating/without", "levels/max", "levels/interval"):
        assert f"avoiding in {studies / variant}\n" in missing + "\n"
    assert f"aligning in {studies / 'gating/learned'}" in missing and "experts/8" not in missing


def test_a_gating_study_may_be_called_without_and_with(studies):
    write_record(studies / "gating/without", "avoiding", "vdd_ve", 0, metrics=scores(0.5, 0.9))
    assert ablations.load(studies).points["gating", "avoiding", "success"]["fixed"].values == (0.5,)


def gaps(axis):
    return sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "x")


def test_figure_3_draws_a_gap_for_each_missing_variant(studies):
    axes = ablations.draw(ablations.load(studies)).axes
    assert [gaps(axis) for axis in axes] == [4, 4, 4, 6]  # a: 2, 4, 16, 32; b, c: 3 without, 1 with; d: twice 3
    means = axes[0].containers[0].lines[0].get_ydata().astype(float)
    np.testing.assert_array_equal(np.isnan(means), [False, True, True, False, True, True])


@pytest.mark.parametrize("figure", ["3", "profiles"])
def test_figures_become_files_and_are_the_same_again(figure, studies, tmp_path, capsys):
    records = studies / "experts/8" if figure == "profiles" else studies
    for out in ("a", "b"):
        assert verb("figures", "--figure", figure, "--records", str(records), "--out", str(tmp_path / out)) == 0
    name = "profiles" if figure == "profiles" else "figure_3"
    assert {p.name for p in (tmp_path / "a").iterdir()} == {f"{name}.{ending}" for ending in style.ENDINGS}
    for ending in ("svg", "pdf"):
        assert (tmp_path / f"a/{name}.{ending}").read_bytes() == (tmp_path / f"b/{name}.{ending}").read_bytes()
    assert ("no records of vdd_ve" in capsys.readouterr().out) == (figure == "3")


@pytest.mark.parametrize("figure", ["3", "4", "profiles"])
def test_without_records_a_figure_is_refused_in_a_line(figure, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert verb("figures", "--figure", figure, "--records", str(tmp_path / "empty"), "--out", str(tmp_path / "x")) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: no") and shown.count("\n") == 1
    assert verb("figures", "--figure", figure, "--records", str(tmp_path / "nowhere"), "--out", str(tmp_path)) == 2
    assert "no folder" in capsys.readouterr().err


def test_a_profile_is_the_share_of_runs_above_with_a_band_where_seeds_differ(tmp_path):
    for seed, success in enumerate((0.5, 0.5, 1.0, 0.1)):
        write_record(tmp_path, "avoiding", "vdd_ve", seed, metrics=scores(success, 0.5))
    write_record(tmp_path, "avoiding", "beso", 0, metrics=scores(0.3, 0.5))
    (axis,) = profiles.draw(profiles.load(tmp_path)[0], SUITES).axes
    beso, vdd = (dict(zip(np.round(line.get_xdata(), 3), line.get_ydata(), strict=True)) for line in axis.lines)
    assert [vdd[tau] for tau in (0.0, 0.1, 0.5, 0.9, 1.0)] == [1, 0.75, 0.25, 0.25, 0]
    assert (beso[0.295], beso[0.3]) == (1, 0)
    assert len(axis.collections) == 1  # one seed has no band


def test_a_method_that_lacks_a_task_is_not_in_the_panel_over_all(tmp_path):
    for task, method in (("avoiding", "vdd_ve"), ("toy", "vdd_ve"), ("avoiding", "cd")):
        write_record(tmp_path, task, method, 0)
    found, _ = profiles.load(tmp_path)
    assert profiles.complete(found) == ["vdd_ve"]
    assert profiles.notes(found) == ["cd has no records on toy: not in the panel over all tasks"]
    titles = [axis.get_title(loc="left") for axis in profiles.draw(found, SUITES).axes]
    assert titles == ["Avoiding", "Toy", "all 2 tasks"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root of studies with a student of four experts, trained for a moment on a few demonstrations."""
    root = tmp_path_factory.mktemp("studies")
    data = make_demonstrations(tmp_path_factory.mktemp("data"))
    options = [
        "--methods",
        "vdd_ve",
        "--tasks",
        "avoiding",
        "--budget",
        "smoke",
        "--workers",
        "0",
        "--data-root",
        str(data),
    ]
    sets = ["--set", "vdd_ve.components=4", "--set", "vdd_ve.steps=2", "--set", "beso.steps=2", "--train-teachers"]
    assert call(*options, *sets, "--out", str(root / "experts/4")) == 0
    return root


KEY = "avoiding/vdd_ve/0"


@pytest.fixture(scope="module")
def traced(trained):
    """The same with its trace, of as many episodes as its record has."""
    from harness.figures.traces import write_trace

    write_trace(trained / "experts/4", KEY, SUITES, episodes=8)
    return trained


def test_a_trace_is_the_records_own_evaluation(traced):
    made = record.read(record.record_path(traced / "experts/4", KEY))
    trace = experts.read_trace(experts.trace_path(traced / "experts/4", KEY))
    assert trace["experts"] == 4 and len(trace["episodes"]) == len(made["episodes"]["success"]) == 8
    for i, episode in enumerate(trace["episodes"]):
        assert (episode["success"], episode["mode"]) == (made["episodes"]["success"][i], made["episodes"]["mode"][i])
        assert len(episode["acting"]) == made["episodes"]["length"][i] == len(episode["x"]) - 1
    assert (
        len({expert for episode in trace["episodes"] for expert in episode["acting"]}) > 1
    )  # drawn, not the likeliest
    assert trace["made_from"]["weights"] == made["weights"]["sha256"] and trace["provenance"]["versions"]["torch"]


def test_figure_4_needs_no_weights_once_there_is_a_trace(traced, tmp_path, capsys):
    hidden = traced / "experts/4/work"
    hidden.rename(tmp_path / "away")
    try:
        assert verb("figures", "--figure", "4", "--records", str(traced), "--out", str(tmp_path / "out")) == 0
    finally:
        (tmp_path / "away").rename(hidden)
    shown = capsys.readouterr().out
    assert (tmp_path / "out/figure_4.pdf").stat().st_size > 5000
    assert all(f"experts/{size}" in shown for size in (1, 2, 8)) and "experts/4" not in shown


def test_an_expert_alone_has_its_own_states(traced):
    trace = experts.load(traced).by_size[4]
    assert sum(experts.share_of(trace, z) for z in range(4)) == pytest.approx(1)
    segments, likeliest = experts.pieces(trace)
    assert len(segments) == len(likeliest) == sum(len(e["likeliest"]) for e in trace["episodes"])
    np.testing.assert_array_equal(segments[0, 1], segments[1, 0])


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda t: t | {"schema": 9}, "schema '9'"),
        (lambda t: t | {"experts": 1}, "no trace"),
        (lambda t: t | {"episodes": [{"x": [0.0], "y": ["<b>"], "likeliest": []}]}, "no trace"),
        (lambda t: t | {"episodes": 3}, "no trace"),
        (lambda t: {k: v for k, v in t.items() if k != "scene"}, "no trace"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(change, why, traced, tmp_path):
    trace = sealed.read_json(experts.trace_path(traced / "experts/4", KEY))
    sealed.write_json(tmp_path / "trace.json", change(trace))
    with pytest.raises(sealed.Damaged, match=why):
        experts.read_trace(tmp_path / "trace.json")


def test_a_trace_of_other_weights_or_altered_is_not_drawn(traced, tmp_path):
    out = tmp_path / "experts/4"
    write_record(out, "avoiding", "vdd_ve", 0, weights={"sha256": "other"})
    path = experts.trace_path(out, KEY)
    sealed.write_json(path, sealed.read_json(experts.trace_path(traced / "experts/4", KEY)))
    found = experts.load(tmp_path)
    assert not found and any("other weights" in line for line in found.missing)
    path.write_text(path.read_text().replace('"success": true', '"success": false', 1).replace("0.5", "0.6", 1))
    assert any("altered" in line for line in experts.load(tmp_path).missing)
    with pytest.raises(UserError, match="not in"):  # nothing to make a new one from
        experts.one(out, KEY, make=True)


def test_weights_of_an_equal_cell_elsewhere_in_the_root_serve(trained, tmp_path):
    """A study may take over the record of an equal cell without its weights."""
    from harness.figures.traces import write_trace

    made = record.read(record.record_path(trained / "experts/4", KEY))
    record.write(record.record_path(tmp_path, KEY), made)
    write_trace(tmp_path, KEY, SUITES, others=[tmp_path / "nowhere", trained / "experts/4"], episodes=1)
    assert experts.one(tmp_path, KEY, make=False)["made_from"]["weights"] == made["weights"]["sha256"]


def test_a_method_without_experts_has_no_trace(trained):
    from harness.figures.traces import write_trace

    with pytest.raises(UserError, match="no mixture"):
        write_trace(trained / "experts/4", "avoiding/beso/0", SUITES, episodes=1)


def test_a_film_shows_an_episode_of_the_record(trained, tmp_path):
    from PIL import Image

    path = record.record_path(trained / "experts/4", KEY)
    out = tmp_path / "film.webp"
    code = 0
    try:
        films.film(path, 0, out)
    except UserError as error:
        if "no OpenGL library" not in str(error):
            raise
        pytest.skip("no OpenGL library")
    assert code == 0 and out.stat().st_size < 1_000_000
    with Image.open(out) as film:
        assert film.size == films.SIZE and film.n_frames > 1


@pytest.mark.parametrize(
    "options, why",
    [
        (["--record", "RECORD", "--out", "x.png"], ".webp"),
        (["--record", "RECORD", "--episode", "99", "--out", "x.webp"], "between 0 and 7"),
        (["--record", "elsewhere.json", "--out", "x.webp"], "no record in a run's folder"),
        (["--record", "RECORD", "--task", "avoiding", "--out", "x.webp"], "not allowed with"),
        (["--out", "x.webp"], "required"),
    ],
)
def test_films_that_cannot_be_made_say_why(options, why, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(record.record_path(trained / "experts/4", KEY))
    assert verb("render", *[path if o == "RECORD" else o for o in options]) == 2
    assert why in capsys.readouterr().err


def test_a_policy_is_loaded_only_with_the_weights_of_its_record(trained, tmp_path):
    from harness.trained import load

    method, task, _ = load(trained / "experts/4", KEY, SUITES)
    assert method.config.components == 4 and task["env"] == "envs.avoiding:AvoidingBatch"
    made = record.read(record.record_path(trained / "experts/4", KEY))
    for name, change, why in (
        ("weights", {"weights": {"sha256": "0" * 64}}, "not in"),
        ("teacher", {"teacher": made["teacher"] | {"cell": "../../../etc/passwd"}}, "malformed|no command"),
        ("class", {"recipe": made["recipe"] | {"class": "os:system"}}, "none that the suites know"),
    ):
        record.write(record.record_path(tmp_path / name, KEY), made | change)
        with pytest.raises(UserError, match=why):
            load(tmp_path / name, KEY, SUITES)


def test_themes_differ_in_colours_alone(studies):
    light, dark = (style.svg(ablations.draw(ablations.load(studies), theme)) for theme in ("light", "dark"))
    assert light != dark and light.count("<path") == dark.count("<path") and "#1c2024" in light and "#e6e8eb" in dark
    assert json.dumps(light).count("http://www.w3.org") >= 1 and "<script" not in light
