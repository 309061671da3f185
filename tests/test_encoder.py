"""The image encoder: sizes, what it takes and gives, gradients, weights from a file, key points."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.errors import UserError
from methods._encoder import ImageEncoder, read_weights
from tests.image_cases import IMAGE_SHAPE, frames


def encoder(seed=0, width=8):
    torch.manual_seed(seed)
    return ImageEncoder(2, 64, 4, width)


def some(n=5, seed=0):
    return torch.from_numpy(frames(np.random.default_rng(seed).random((n, 2)), seed))


def test_the_published_sizes():
    """ResNet-18 without its last layer: 11,176,512; the maps: 512 x 32 + 32; both twice."""
    net = ImageEncoder(2, 96, 32, 64)
    assert sum(p.numel() for p in net.parameters()) == 2 * (11_176_512 + 512 * 32 + 32)
    assert (net.obs_dim, net.features) == (55296, 128)
    with torch.no_grad():
        maps = net.cameras[0].attention(torch.zeros(1, 3, 96, 96))
    assert maps.shape == (1, 32, 3, 3)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(1, 32))


def test_frames_become_features_and_features_stay():
    net, obs = encoder(), some(6).view(2, 3, -1)
    with torch.no_grad():
        features = net(obs)
    assert features.shape == (2, 3, 16) and features.dtype == torch.float32 and features.abs().max() <= 1
    assert net(features) is features
    with pytest.raises(ValueError, match="16 features"):
        net(torch.zeros(2, IMAGE_SHAPE.obs))


def test_a_frame_is_encoded_alike_alone_and_among_others_with_gradient_or_without(monkeypatch):
    net, obs = encoder(), some(9)
    with torch.no_grad():
        whole = net(obs)
        monkeypatch.setattr("methods._encoder.CHUNK", 4)
        torch.testing.assert_close(net(obs), whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(net(obs[3:4]), whole[3:4], atol=1e-5, rtol=0)
    torch.testing.assert_close(net(obs).detach(), whole, atol=1e-5, rtol=0)


def test_cameras_have_their_own_weights_and_see_their_own_frames():
    net, obs = encoder(), some(3)
    with torch.no_grad():
        before = net(obs)
        obs[:, : 3 * 64**2] = 255 - obs[:, : 3 * 64**2]  # the first camera's
        after = net(obs)
    assert not torch.allclose(before[:, :8], after[:, :8]) and torch.equal(before[:, 8:], after[:, 8:])
    same = torch.cat([obs[:, : 3 * 64**2]] * 2, 1)
    with torch.no_grad():
        left, right = net(same).chunk(2, -1)
    assert not torch.allclose(left, right)


def test_gradients_reach_every_weight():
    net = encoder()
    net(some(4)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.cameras[0].conv1.weight.grad.abs().sum() > 0 and net.cameras[1].conv1.weight.grad.abs().sum() > 0


def test_a_key_point_is_where_its_map_is_bright():
    net = encoder().cameras[0]
    maps = torch.full((1, 8 * 8, 3, 3), 0.0)
    net.layer4 = torch.nn.Identity()
    net.layer1 = net.layer2 = net.layer3 = torch.nn.Identity()
    net.maps = torch.nn.Identity()
    net.attention = lambda _images: torch.softmax((maps + bright).flatten(2), -1).view(maps.shape)
    bright = torch.zeros(1, 64, 3, 3)
    bright[:, :, 0, 2] = 50.0  # top right
    torch.testing.assert_close(net(None)[0, 0], torch.tensor([1.0, -1.0]))  # x to the right, y downwards
    bright = torch.zeros(1, 64, 3, 3)
    torch.testing.assert_close(net(None)[0, 0], torch.zeros(2), atol=1e-6, rtol=0)


def test_scaled_features_have_unit_variance():
    net, obs = encoder(), some(40)
    with torch.no_grad():
        raw = net(obs)
        net.scale_features(raw)
        scaled = net(obs)
    torch.testing.assert_close(scaled, net.scaled(raw))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    assert scaled.std(0).max() < 1.01


def imagenet(width=8):
    """A stand-in for torchvision's file: every convolution by its name."""
    weights = {f"{n}.weight": torch.randn_like(m.weight) for n, m in encoder(1, width).cameras[0].named_modules()
               if isinstance(m, torch.nn.Conv2d) and n != "maps"}  # fmt: skip
    return weights | {"fc.weight": torch.zeros(3, 3), "bn1.weight": torch.zeros(8)}


def test_weights_from_a_file_reach_both_cameras(tmp_path):
    save_file(imagenet(), tmp_path / "w.safetensors")
    weights, sha256 = read_weights(tmp_path / "w.safetensors")
    net = encoder()
    net.load_imagenet(weights)
    for camera in net.cameras:
        assert torch.equal(camera.layer3[0].downsample[0].weight, weights["layer3.0.downsample.0.weight"])
        assert torch.equal(camera.conv1.weight, weights["conv1.weight"]) and camera.norm1.weight.mean() == 1
    assert len(sha256) == 64


def test_bad_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_weights(tmp_path / "none")
    torch.save(imagenet(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"no safetensors file.*convert"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"nothing as layer1.0.conv1.weight|nothing as conv1.weight"):
        encoder().load_imagenet({"conv1.weight": imagenet()["conv1.weight"]})
    with pytest.raises(ValueError, match=r"needed: \(16, 3, 7, 7\)"):
        encoder(width=16).load_imagenet(imagenet())


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        ImageEncoder(2, 90, 32, 64)


def test_key_points_are_drawn_where_the_maps_are(tmp_path):
    from PIL import Image

    from harness.keypoints import GAP, SCALE, draw, places

    net, obs = encoder(), some(1)[0].numpy()
    points, peaks = places(net, obs)
    assert points.shape == (2, 4, 2) and ((points >= 16) & (points <= 48)).all()  # centres of the outermost places
    assert ((peaks >= 0.25) & (peaks <= 1)).all()
    with Image.open(draw(net, obs, tmp_path / "k.png")) as picture:
        assert picture.size == (2 * 64 * SCALE + GAP, 64 * SCALE)
        x, y = (int(v) for v in points[0, 0] * SCALE)
        around = np.asarray(picture)[y - 7 : y + 8, x - 7 : x + 8].reshape(-1, 3)
        assert (around == (255, 0, 0)).all(1).sum() > 20  # the first key point is red
