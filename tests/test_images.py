"""Every method on windows of tiny images: learning, acting from features, files, resumption, what stays bounded."""

import copy
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.histories import FrameRows
from harness.likelihood import likelihood
from harness.quality import quality
from harness.train import augment, train
from harness.windows import encoded, fit_scaler, images, make_windows, spread
from methods import policy
from methods._encoder import ImageEncoder
from methods.policy import Policy
from tests.image_cases import IMAGE_GPT, IMAGE_SHAPE, demonstrations, frames
from tests.method_cases import GPT, METHODS, build, learn_and_act_on_meta, train_config, windows

NAMES = [name for name in METHODS if name != "exact"]  # the toy's, which sees nothing
every_method = pytest.mark.parametrize("name", NAMES)


def image_method(name, **hyper):
    return build(name, IMAGE_GPT, shape=IMAGE_SHAPE, **hyper)


def image_config(name, **changes):
    return train_config(name, **{"obs_noise": 0.0, "optimizer": "adamw", "batch": 4, "lr": 1e-3, **changes})


def data_of(seed=0):
    return windows(shape=IMAGE_SHAPE, seed=seed)


def observations(n=1, steps=5, seed=0):
    rng = np.random.default_rng(seed)
    return [frames(rng.random((n, 2)), seed + k) for k in range(steps)]


@every_method
def test_interrupted_training_ends_with_the_same_weights(name, tmp_path):
    config = image_config(name, steps=6, checkpoint_seconds=0.0, ema=0.9)
    whole, start = image_method(name), image_method(name)
    before = copy.deepcopy(whole.encoder.state_dict())
    expected = train(whole, data_of(), data_of(1).select(torch.arange(6)), config, 0, tmp_path)
    changed = [not torch.equal(v, before[k]) for k, v in whole.encoder.state_dict().items() if "weight" in k]
    assert all(changed)  # the encoder learns

    class Killed(Exception):
        pass

    def kill(step, steps, losses):
        if step == 3:
            raise Killed

    folder = tmp_path / "interrupted"
    folder.mkdir()
    with pytest.raises(Killed):
        train(start, data_of(), data_of(1).select(torch.arange(6)), config, 0, folder, kill)
    torch.rand(100)
    resumed = image_method(name)
    result = train(resumed, data_of(), data_of(1).select(torch.arange(6)), config, 0, folder)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    assert result.curve == expected.curve and result.val == expected.val


@every_method
def test_acting_from_kept_features_equals_acting_from_the_frames(name):
    """The policy encodes a frame once; `act` on the whole window of frames, encoded anew, gives the same."""
    method = image_method(name).eval()
    for module in method.modules():  # a target network that sees otherwise must not be taken for the acting one
        if isinstance(module, ImageEncoder) and module is not method.encoder:
            module.feature_mean.add_(1.0)
    acting, steps = Policy(method), observations(2, 5)
    acting.reset([3, 4])
    streams = [np.random.Generator(np.random.Philox(key=s)) for s in (3, 4)]
    for k, obs in enumerate(steps):
        seen = steps[max(0, k - IMAGE_GPT.window + 1) : k + 1]
        window = np.zeros((2, IMAGE_GPT.window, IMAGE_SHAPE.obs), np.uint8)
        window[:, : len(seen)] = np.stack(seen, 1)
        noise = np.stack([s.standard_normal(method.noise_dim, np.float32) for s in streams])
        uniform = np.array([s.random(dtype=np.float32) for s in streams])
        with torch.inference_mode():
            inputs = (torch.from_numpy(x) for x in (window, np.full(2, len(seen) - 1), noise, uniform))
            action = method.act(*inputs).numpy() * acting._act_std + acting._act_mean
        np.testing.assert_allclose(acting.act(obs), action, atol=2e-5)


@every_method
def test_an_environment_acts_alike_alone_and_among_many(name):
    method = image_method(name)
    many, one = Policy(method), Policy(method)
    many.reset(range(7))
    one.reset([5])
    for k, obs in enumerate(observations(7, 4)):
        active = np.ones(7, bool)
        active[0] = k < 2  # one that ends does not disturb the others
        np.testing.assert_allclose(many.act(obs, active)[5], one.act(obs[5:6])[0], atol=5e-5)


@every_method
def test_a_saved_policy_acts_as_before(name, tmp_path):
    method = image_method(name)
    policy.save(method, tmp_path / "p", name)
    a, b = Policy(method), Policy(policy.load(tmp_path / "p"))
    traced = Policy(method, compiled="trace")
    for p in (a, b, traced):
        p.reset([1])
    for obs in observations(1, 4):
        action = a.act(obs)
        np.testing.assert_array_equal(action, b.act(obs))
        np.testing.assert_allclose(action, traced.act(obs), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mode"])
def test_nothing_stays_on_the_cpu(name):
    """As `test_methods.py`, on frames."""
    batch = data_of().batch(torch.arange(4))
    assert batch.obs.dtype == torch.uint8
    learn_and_act_on_meta(image_method(name), batch)


def test_training_learns_where_the_dot_is(tmp_path):
    """The action is where the dot is: a few iterations explain most of it."""
    demos = demonstrations([30] * 6)
    scaler = fit_scaler(demos)
    method = image_method("beso")
    method.scaler = scaler
    data = make_windows(demos, IMAGE_GPT.window, scaler)
    config = image_config("beso", steps=60, batch=16, lr=3e-3, ema=0.9)
    result = train(method, data, data.select(torch.arange(30)), config, 0, tmp_path)
    assert result.curve["loss"][-1] < 0.6 * result.curve["loss"][0]


@pytest.mark.compiled
def test_compiled_and_eager_losses_agree_with_bfloat16_products(tmp_path, monkeypatch):
    """A student, whose loss encodes with and without gradient."""
    monkeypatch.setattr("torch._inductor.config.fallback_random", True)  # the same noise
    config = image_config("vdd_ve", steps=1, precision="bf16", compile="off")
    losses = []
    for choice in ("off", "on"):
        method = image_method("vdd_ve")
        nothing = data_of().select(torch.arange(0))
        losses.append(train(method, data_of(), nothing, replace(config, compile=choice), 0, tmp_path / choice).curve)
    for name in ("loss", "loss_gating"):
        np.testing.assert_allclose(losses[0][name], losses[1][name], rtol=0.05)


def test_windows_hold_the_rows_and_nothing_more():
    demos = demonstrations([4, 7])
    data = make_windows(demos, 3, fit_scaler(demos))
    assert images(data) and isinstance(data.obs.rows, FrameRows) and data.obs.index.shape == (11, 3)
    rows = np.concatenate([e.obs for e in demos.episodes])
    batch = data.batch(torch.tensor([0, 1, 3, 4, 10]))
    assert batch.obs.dtype == torch.uint8 and batch.obs.shape == (5, 3, IMAGE_SHAPE.obs)
    assert batch.last.tolist() == [0, 1, 2, 0, 2]
    expected = [[0], [0, 1], [1, 2, 3], [4], [8, 9, 10]]
    for obs, wanted in zip(batch.obs.numpy(), expected, strict=True):
        assert np.array_equal(obs[: len(wanted)], rows[wanted])
    assert len(spread(data, 4)) == 4 and images(spread(data, 4))
    assert [len(b) for b in data.batches(4)] == [4, 4, 3]


def test_lazy_frames_are_asked_for_rows_alone():
    class Lazy:
        """An object as `Episode.obs` of an image task may be: rows on request."""

        shape, dtype = (6, IMAGE_SHAPE.obs), np.dtype(np.uint8)
        asked: ClassVar[list] = []

        def __len__(self):
            return 6

        def __getitem__(self, index):
            self.asked.append(np.asarray(index).tolist())
            return np.repeat(np.asarray(index, np.uint8)[:, None], IMAGE_SHAPE.obs, 1)

    rows = FrameRows([Lazy(), Lazy()])
    got = rows.gather(torch.tensor([[7, 8], [1, 8]]))
    assert got[..., 0].tolist() == [[1, 2], [1, 2]] and Lazy.asked == [[1], [1, 2]]


def test_images_get_no_noise_but_their_histories_may_be_cut():
    data = data_of().batch(torch.arange(8))
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="obs_noise = 0"):
        augment(data, image_config("beso", obs_noise=0.1), generator)
    with pytest.raises(ValueError, match="history_noise = 0"):
        augment(data, image_config("beso", history_noise=0.1), generator)
    cut = augment(data, image_config("beso", history_cut=1.0), generator)
    assert cut.obs.dtype == torch.uint8 and (cut.last <= data.last).all()
    newest = torch.arange(8)
    assert torch.equal(cut.obs[newest, cut.last], data.obs[newest, data.last])


def test_encoded_windows_are_the_encoders_features():
    method, data = image_method("ctm"), data_of().select(torch.tensor([3, 4, 20]))
    method.target.net.encoder.feature_mean.add_(1.0)
    with torch.no_grad():
        expected = method.net.net.encoder(data.batch(torch.arange(3)).obs)
    found = encoded(method, data)
    assert not images(found)
    torch.testing.assert_close(found.batch(torch.arange(3)).obs, expected, atol=1e-5, rtol=0)


def test_likelihood_and_quality_encode_every_frame_once(monkeypatch):
    student = image_method("vdd_ve")
    teacher = student.get_teacher()
    seen = []
    encode = ImageEncoder.encode
    monkeypatch.setattr(ImageEncoder, "encode", lambda self, obs: seen.append(len(obs)) or encode(self, obs))
    data = data_of()
    quality(student, teacher, data, 0, states=6, samples=8)
    assert 0 < sum(seen) <= 2 * 6 * IMAGE_GPT.window  # not once a sample
    seen.clear()
    for method, kind in ((student, "exact"), (teacher, "flow")):
        found, _ = likelihood(method, data, 0, rows=10)
        assert found["kind"] == kind and found["rows"] == 10 and np.isfinite(found["nats_per_action"])
    assert sum(seen) <= 2 * (10 + 2) * IMAGE_GPT.window


def test_other_observations_are_refused():
    p = Policy(image_method("vdd_ve"))
    p.reset([0])
    with pytest.raises(UserError, match="as uint8"):
        p.act(np.zeros((1, IMAGE_SHAPE.obs), np.float32))
    with pytest.raises(ValueError, match="are 24576 values, not 100"):
        build("beso", IMAGE_GPT, shape=replace(IMAGE_SHAPE, obs=101 - 1))


def test_files_of_networks_without_an_encoder_say_nothing_of_it():
    assert set(GPT.saved()) == {"layers", "heads", "embed", "window", "attn_dropout", "resid_dropout"}
    assert IMAGE_GPT.saved().keys() - GPT.saved().keys() == {"cameras", "pixels", "keypoints", "encoder_width"}
