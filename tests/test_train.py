"""The training loop: schedule, exact resumption, losses that are not finite."""

import pytest
import torch

from harness import train as training
from harness.train import CHECKPOINT, TrainConfig, augment, learning_rate, train
from tests.method_cases import METHODS, build, train_config, windows


def test_learning_rate_is_positive_until_the_end():
    config = TrainConfig(100, 8, "adamw", 1e-3, 1e-5, 10, 0.0, 0.0, 0.0, 0.0, 0.0, "fp32", "off", 60.0, 1)
    factors = [learning_rate(s, config) for s in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == 1.0
    assert all(f >= 1e-2 for f in factors) and factors[-1] == pytest.approx(0.01, abs=2e-3)


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_training_ends_with_the_same_weights(name, tmp_path):
    config = train_config(name, steps=14, batch=16, checkpoint_seconds=0.0, ema=0.99)
    whole = build(name)
    expected = train(whole, windows(), windows(32, 1), config, 0, tmp_path)

    def kill(step, steps, losses):
        if step == 6:
            raise Killed

    folder = tmp_path / "interrupted"
    folder.mkdir()
    with pytest.raises(Killed):
        train(build(name), windows(), windows(32, 1), config, 0, folder, kill)
    torch.rand(100)  # the process may have drawn anything since
    resumed, reported = build(name, seed=99), []
    result = train(resumed, windows(), windows(32, 1), config, 0, folder, lambda step, *_: reported.append(step))
    assert reported == list(range(5, 15))  # where it goes on, at once
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert result.curve == expected.curve and result.val == expected.val


def test_a_finished_training_is_loaded_not_repeated(tmp_path):
    config = train_config("vdd_ve", steps=5, batch=8)
    first = build("vdd_ve")
    train(first, windows(), windows(8), config, 0, tmp_path)
    again = build("vdd_ve", seed=5)
    steps = []
    train(again, windows(), windows(8), config, 0, tmp_path, lambda step, *_: steps.append(step))
    assert steps == []
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    data = windows()
    data.action[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        train(build("beso"), data, windows(8), train_config("beso", steps=10, batch=8), 0, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_precision_and_compile_are_resolved():
    assert training.resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert training.resolve_precision("auto", torch.device("cpu")) in ("bf16", "fp32")
    assert training.resolve_compile("off") is False


def test_history_noise_blurs_every_state_but_the_newest():
    data = windows(64).batch(torch.arange(64))
    config = train_config("beso", obs_noise=0.0, history_noise=0.5)
    noised = augment(data, config, torch.Generator().manual_seed(0))
    newest = torch.arange(64)
    assert torch.equal(noised.obs[newest, data.last], data.obs[newest, data.last])
    older = torch.arange(data.obs.shape[1]) < data.last[:, None]
    noise = (noised.obs - data.obs)[older]
    assert noise.std().item() == pytest.approx(0.5, rel=0.1) and noise.mean().item() == pytest.approx(0.0, abs=0.1)
    beyond = torch.arange(data.obs.shape[1]) > data.last[:, None]
    assert torch.equal(noised.obs[beyond], data.obs[beyond])


def test_setpoint_noise_blurs_the_first_values_alone_of_every_state():
    data = windows(64).batch(torch.arange(64))
    width = data.action.shape[-1]
    noised = augment(data, train_config("beso", obs_noise=0.0, setpoint_noise=0.5), torch.Generator().manual_seed(0))
    assert torch.equal(noised.obs[..., width:], data.obs[..., width:])
    noise = (noised.obs - data.obs)[..., :width]
    assert noise.std().item() == pytest.approx(0.5, rel=0.1) and noise.mean().item() == pytest.approx(0.0, abs=0.1)


def test_without_history_noise_the_random_numbers_are_those_of_before():
    data = windows(16).batch(torch.arange(16))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    noised = augment(data, train_config("beso", obs_noise=0.1), generators[0])
    drawn = data.obs + 0.1 * torch.randn(data.obs.shape, generator=generators[1])
    assert torch.equal(noised.obs, drawn) and torch.equal(generators[0].get_state(), generators[1].get_state())
