"""Suites and resolved configurations."""

import dataclasses
import math

import pytest

from harness import config, registry
from harness.errors import UserError

SUITES = registry.load_suites()
TRAINED = [name for name, block in SUITES.methods.items() if block["role"] != "one_step"]


@pytest.mark.parametrize("task", SUITES.tasks)
@pytest.mark.parametrize("method", SUITES.methods)
@pytest.mark.parametrize("budget", SUITES.budgets)
def test_every_cell_resolves(task, method, budget):
    made = config.resolve(SUITES, task, method, budget)
    images = ["encoder"] if "encoder" in SUITES.tasks[task] else []
    assert list(made) == ["gpt", "hyper", "train", "eval", *images]
    assert made["eval"]["rollouts"] <= SUITES.tasks[task]["rollouts"]
    assert len(config.digest(made)) == 64


@pytest.mark.parametrize("method", TRAINED)
def test_blocks_have_the_fields_of_their_classes(method):
    from harness.train import TrainConfig
    from methods._transformer import GPTConfig

    made = config.resolve(SUITES, next(iter(SUITES.tasks)), method, "smoke")
    hyper = registry.resolve_class(SUITES.methods[method]["class"]).Config
    for section, kind in (("hyper", hyper), ("train", TrainConfig), ("gpt", GPTConfig)):
        fields = dataclasses.fields(kind)
        needed = {f.name for f in fields if f.default is dataclasses.MISSING}
        assert needed <= made[section].keys() <= {f.name for f in fields}
        kind(**made[section])


@pytest.mark.parametrize("task", SUITES.tasks)
def test_gym_ids_and_classes_exist(task):
    import gymnasium

    import envs  # noqa: F401 (registers)

    assert SUITES.tasks[task]["gym_id"] in gymnasium.registry
    assert registry.resolve_class(SUITES.tasks[task]["env"])


def test_precedence_method_task_budget_set():
    base = config.resolve(SUITES, "avoiding", "beso", "standard")
    assert base["hyper"]["sampling_steps"] == SUITES.tasks["avoiding"]["method"]["beso"]["sampling_steps"]
    smoke = config.resolve(SUITES, "avoiding", "beso", "smoke")
    assert smoke["train"]["steps"] == SUITES.methods["beso"]["budget"]["smoke"]["steps"]
    sets = config.parse_sets(SUITES, ["beso.steps=7", "beso.lr=1", "beso.layers=2", "beso.rollouts=3"])
    made = config.resolve(SUITES, "avoiding", "beso", "smoke", sets)
    assert (made["train"]["steps"], made["gpt"]["layers"], made["eval"]["rollouts"]) == (7, 2, 3)
    assert made["train"]["lr"] == 1.0 and isinstance(made["train"]["lr"], float)
    assert SUITES.methods["beso"]["train"]["lr"] != 1.0  # the suite itself is untouched


def test_one_step_is_its_teacher_with_overrides():
    teacher = config.resolve(SUITES, "avoiding", "beso", "smoke")
    one = config.resolve(SUITES, "avoiding", "ve1", "smoke")
    assert one["train"] == teacher["train"] and one["gpt"] == teacher["gpt"]
    assert one["hyper"] == teacher["hyper"] | {"sampling_steps": 1}
    changed = config.resolve(SUITES, "avoiding", "ve1", "smoke", {"beso": {"sigma_max": 0.9}})
    assert changed["hyper"]["sigma_max"] == 0.9


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["besso.lr=1"], "Did you mean 'beso'"),
        (["beso.lrr=1"], "Did you mean 'lr'"),
        (["beso.lr"], "method.key=value"),
        (["lr=1"], "method.key=value"),
        (["beso.steps=many"], "must be int"),
        (["beso.steps=1.5"], "must be int"),
        (["beso.steps=true"], "must be int"),
        (["beso.lr=nan"], "must be finite"),
        (["beso.lr=inf"], "must be finite"),
        (["beso.rollouts=0"], "at least 1"),
        (["beso.lr=1", "beso.lr=2"], "given twice"),
    ],
)
def test_bad_overrides_say_what_is_wrong(texts, says):
    with pytest.raises(UserError, match=says):
        config.resolve(SUITES, "avoiding", "beso", "smoke", config.parse_sets(SUITES, texts))


def test_digest_is_canonical():
    assert config.digest({"a": 1, "b": 2.5}) == config.digest({"b": 2.5, "a": 1})
    with pytest.raises(ValueError):
        config.digest({"a": math.nan})


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("methods", 'role = "teacher"', 'role = "techer"', "role must be one of"),
        ("methods", "[beso.hyper]", "[beso.hiper]", "Did you mean 'hyper'"),
        ("methods", "[beso.budget.smoke]", "[beso.budget.smok]", "Did you mean 'smoke'"),
        ("methods", 'teacher = "beso"', 'teacher = "cd"', "is not a method with role teacher"),
        ("tasks", "modes = 24", "mods = 24", "lacks modes"),
        ("tasks", "[avoiding.method.beso]", "[avoiding.method.besso]", "Did you mean 'beso'"),
        ("budgets", "[smoke]", "[smoke", "not valid TOML"),
        ("budgets", "rollouts = 8", "rolouts = 8", "must have exactly"),
    ],
)
def test_a_misspelt_suite_is_refused(tmp_path, name, old, new, says):
    for path in registry.SUITES.glob("*.toml"):
        text = path.read_text()
        if path.stem == name:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / path.name).write_text(text)
    with pytest.raises(UserError, match=says):
        registry.load_suites(tmp_path)


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", [0]), ("4", [0, 1, 2, 3]), ("3,7", [3, 7]), ("3,", [3]), ("7,3,7", [7, 3])]
)
def test_seeds(text, seeds):
    assert registry.select_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1.5", "1;2", "99999999", "1,,x", "٣"])
def test_bad_seeds(text):
    with pytest.raises(UserError):
        registry.select_seeds(text)


def test_names():
    names = {"all": ["a", "b", "c"], "extra": ["d"], "groups": {"ab": ["a", "b"]}}
    assert registry.select("method", "all", {"a": 1, "c": 1}, names) == (["a", "c"], ["b"])
    assert registry.select("method", "ab, a", {"a": 1, "b": 1}, names) == (["a", "b"], [])
    for text, says in (
        ("b", "not available yet"),
        ("d", "not available yet"),
        ("ax", "unknown method"),
        (",", "no method"),
    ):
        with pytest.raises(UserError, match=says):
            registry.select("method", text, {"a": 1, "c": 1}, names)
