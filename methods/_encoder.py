"""What a network sees an image with: for each camera a ResNet-18 with group normalisation and a spatial soft-max.

He et al., *Deep Residual Learning* (2016), Table 1; spatial soft-max of Finn et al., *Deep Spatial Autoencoders* (2016).
Reference: the observation encoder of D3IL (its `VisualCore` is robomimic's), one for each camera, none shared. 32 key points,
the means of 32 maps of attention, are 64 features a camera.

Shapes: C cameras, P pixels a side, K key points, F = 2 K C features, D = 3 P^2 C values of an observation (cameras, rows,
columns, channels RGB), n frames.

Differences from the reference:
1. Channels are in the order of the constants they are normalised with, RGB. The reference feeds BGR with RGB constants.
2. No Linear(64, 64) behind the key points: the next operation, the transformer's embedding, is a linear map already.
3. `feature_mean`, `feature_std` scale the features of a frozen encoder (harness/encoder.py); a trained one has 0 and 1 there.
4. ImageNet weights come from a local file, or none: the paper says pre-trained, the released configuration starts at random. Of
   a file the convolutions are taken, as in the reference, whose group normalisations are new too.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from torch import Tensor, nn

from harness.errors import UserError

STRIDE = 32  # pixels a side of one value of the last map
GROUP = 16  # channels that are normalised together
CHUNK = 64  # observations that are encoded together where no gradient is asked for
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB
LIMIT = 10.0  # of scaled features, as of scaled observations


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP), channels)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class KeyPoints(nn.Module):
    """One camera: images (n, 3, P, P) -> key points (n, K, 2), x and y each in [-1, 1] of the last map."""

    def __init__(self, keypoints: int, width: int):
        super().__init__()
        w = width
        self.conv1, self.norm1 = nn.Conv2d(3, w, 7, 2, 3, bias=False), norm(w)
        self.layer1 = nn.Sequential(BasicBlock(w, w, 1), BasicBlock(w, w, 1))
        self.layer2 = nn.Sequential(BasicBlock(w, 2 * w, 2), BasicBlock(2 * w, 2 * w, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * w, 4 * w, 2), BasicBlock(4 * w, 4 * w, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * w, 8 * w, 2), BasicBlock(8 * w, 8 * w, 1))
        self.maps = nn.Conv2d(8 * w, keypoints, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer is not self.maps:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # as torchvision

    def attention(self, images: Tensor) -> Tensor:
        """Where each key point looks: (n, K, h, w), every map sums to one; h = w = P / 32."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(images))), 3, 2, 1)
        logits = self.maps(self.layer4(self.layer3(self.layer2(self.layer1(x))))).float()  # (n, K, h, w)
        return torch.softmax(logits.flatten(2), -1).view(logits.shape)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.attention(images)
        x, y = (torch.linspace(-1, 1, size, device=maps.device) for size in (maps.shape[3], maps.shape[2]))
        return torch.stack([(maps.sum(2) * x).sum(-1), (maps.sum(3) * y).sum(-1)], -1)


class ImageEncoder(nn.Module):
    """Observations (..., D) uint8 -> features (..., F) float32. Features that it has made before pass unchanged."""

    feature_mean: Tensor
    feature_std: Tensor
    colour_mean: Tensor
    colour_std: Tensor

    def __init__(self, cameras: int, pixels: int, keypoints: int, width: int):
        super().__init__()
        if pixels % STRIDE or pixels < 2 * STRIDE or min(cameras, keypoints, width) < 1:  # one value has no position
            raise ValueError(f"pixels must be a multiple of {STRIDE}, at least {2 * STRIDE}. Got {pixels}")
        self.pixels = pixels
        self.cameras = nn.ModuleList(KeyPoints(keypoints, width) for _ in range(cameras))
        self.obs_dim, self.features = 3 * pixels**2 * cameras, 2 * keypoints * cameras
        self.register_buffer("feature_mean", torch.zeros(self.features))
        self.register_buffer("feature_std", torch.ones(self.features))
        for name, values in (("colour_mean", MEAN), ("colour_std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def images(self, obs: Tensor) -> list[Tensor]:
        """(n, D) uint8 -> of each camera (n, 3, P, P) normalised; channels last in memory, as the pixels lie."""
        frames = obs.view(-1, len(self.cameras), self.pixels, self.pixels, 3)
        return [(f.permute(0, 3, 1, 2) / 255 - self.colour_mean) / self.colour_std for f in frames.unbind(1)]

    def encode(self, obs: Tensor) -> Tensor:
        """(n, D) uint8 -> (n, F)."""
        points = [net(image).flatten(1) for net, image in zip(self.cameras, self.images(obs), strict=True)]
        return self.scaled(torch.cat(points, -1))

    def scaled(self, features: Tensor) -> Tensor:
        return ((features - self.feature_mean) / self.feature_std).clamp(-LIMIT, LIMIT)

    def forward(self, obs: Tensor) -> Tensor:
        if obs.dtype != torch.uint8:
            if obs.shape[-1] != self.features:
                raise ValueError(f"an image encoder takes frames (uint8) or {self.features} features, got {obs.shape}")
            return obs
        return self.see(obs.flatten(0, -2)).view(*obs.shape[:-1], -1)

    def see(self, obs: Tensor) -> Tensor:
        """`encode` of any number of observations: in parts where no gradient keeps what is computed on the way."""
        if torch.is_grad_enabled():
            return self.encode(obs)
        return torch.cat([self.encode(part) for part in obs.split(CHUNK)])

    @torch.no_grad()
    def scale_features(self, features: Tensor) -> None:
        """Make mean and standard deviation of these features (n, F), unscaled so far, those of the scale."""
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(features.std(0) + 1e-6)

    def load_imagenet(self, weights: Mapping[str, Tensor]) -> None:
        """Every camera's convolutions from a ResNet-18 with torchvision's names. Raises ValueError where one is missing."""
        for net in self.cameras:
            wanted = {f"{n}.weight": m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and n != "maps"}
            for name, layer in wanted.items():
                if name not in weights or weights[name].shape != layer.weight.shape:
                    found = tuple(weights[name].shape) if name in weights else "nothing"
                    raise ValueError(f"it has {found} as {name}, needed: {tuple(layer.weight.shape)}")
                with torch.no_grad():
                    layer.weight.copy_(weights[name])


@functools.cache
def leave_uncompiled() -> None:
    """Have `torch.compile` call `ImageEncoder.see` as it is: convolutions are library calls, compiling around them takes
    minutes and gains little. Not a decorator: it imports the compiler, a second or two of a process that only acts."""
    ImageEncoder.see = torch.compiler.disable(ImageEncoder.see)  # type: ignore[method-assign]


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file and its SHA-256. Raises UserError for any other file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the encoder's weights {path}: {error.strerror}") from None
    try:
        return deserialise(content), hashlib.sha256(content).hexdigest()
    except SafetensorError:
        raise UserError(
            f"{path} is no safetensors file (nothing pickled is read); convert torchvision's file where you trust it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'resnet18.safetensors')"
        ) from None
