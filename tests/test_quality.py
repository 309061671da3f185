"""Distance between a student's and its teacher's actions on held-out states."""

import math

import pytest
import torch
from standins import make_demonstrations
from test_job import SETS, specs

from harness import job, record
from harness.quality import energy_distance, quality, sample_actions
from methods.base import Method
from methods.scaler import Scaler
from tests.method_cases import GPT, SHAPE, build, windows


class Normal(Method):
    """A policy whose actions are N(shift, 1), whatever the state."""

    noise_dim = SHAPE.act

    def __init__(self, shift: float):
        super().__init__(None, SHAPE, GPT, Scaler.identity(SHAPE.obs, SHAPE.act))
        self.shift = torch.nn.Parameter(torch.tensor(shift))

    def act(self, obs, last, noise, uniform, goal=None):
        return self.shift + noise


def normal(shift: float, seed: int, samples: int = 4000, dim: int = 1) -> torch.Tensor:
    return shift + torch.randn(1, samples, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_energy_distance_of_two_gaussians(shift):
    """N(0, 1) and N(m, 1) in one dimension: 2 E|x - y| - 2 E|x - x'| with x - y ~ N(m, 2)."""
    cross = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    expected = 2 * cross - 4 / math.sqrt(math.pi)
    assert energy_distance(normal(0, 1), normal(shift, 2)).item() == pytest.approx(expected, abs=0.02)


def test_energy_distance_of_points():
    x = torch.zeros(3, 4, 2)
    y = x + torch.tensor([3.0, 4.0])
    torch.testing.assert_close(energy_distance(x, y), torch.full((3,), 10.0))  # 2 |x - y|
    torch.testing.assert_close(energy_distance(x, x), torch.zeros(3))


def test_an_equal_student_is_at_the_noise_floor_and_a_shifted_one_is_not():
    teacher, data = Normal(0.0), windows(64)
    equal = quality(Normal(0.0), teacher, data, 0)
    assert equal["energy_distance"] == pytest.approx(equal["noise_floor"], rel=0.2)
    assert equal["states"] == 64 and equal["samples"] == 64
    near, far = (quality(Normal(s), teacher, data, 0) for s in (0.5, 1.5))
    assert near["noise_floor"] == far["noise_floor"] == equal["noise_floor"]
    assert 3 * equal["noise_floor"] < near["energy_distance"] < far["energy_distance"]
    # floor of the V-statistic: each of the two within-sample means counts M of M^2 pairs as zero
    spread = math.sqrt(math.pi)  # E|x - x'| of a 2-D standard normal
    assert equal["noise_floor"] == pytest.approx(2 * spread / 64, rel=0.2)


@pytest.mark.parametrize("student", ["vdd_ve", "cd"])
def test_every_students_quality_depends_on_the_seed_alone(student):
    method, data = build(student), windows(12)
    teacher = method.get_teacher()
    torch.manual_seed(1)
    first = quality(method, teacher, data, 5, states=6, samples=8)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert quality(method, teacher, data, 5, states=6, samples=8) == first
    assert quality(method, teacher, data, 6, states=6, samples=8) != first
    assert first["states"] == 6 and first["samples"] == 8
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # the global stream is left alone


def test_samples_belong_to_their_state():
    method, data = build("vdd_ve"), windows(40)  # more states than one chunk
    method.net.mean.out.weight.data.normal_()  # means that depend on the state
    actions = sample_actions(method, data, 16, 0)
    assert actions.shape == (40, 16, SHAPE.act)
    with torch.no_grad():
        means = method.mixture(data.obs, data.last).mean  # (N, Z, A)
    assert torch.cdist(actions, means).min(-1).values.max() < 1e-3


def test_the_record_carries_both(tmp_path):
    data = str(make_demonstrations(tmp_path / "data"))
    teacher, student = (job.run_cell(spec) for spec in specs(data, tmp_path))
    assert teacher["likelihood"]["kind"] == "flow" and teacher["quality"] is None
    assert student["likelihood"]["kind"] == "exact" and student["quality"].keys() >= {"energy_distance", "noise_floor"}
    assert student["quality"]["states"] == SETS["vdd_ve"]["rollouts"]  # few rollouts, few states
    assert {"held_out_s", "likelihood_s_per_1000"} <= student["timings"].keys()
    again = job.run_cell(specs(data, tmp_path)[1])
    assert record.comparable(again) == record.comparable(student)


def test_older_records_stay_valid_and_wrong_types_are_noticed(tmp_path):
    from standins import done_record

    record.write(tmp_path / "0.json", done_record("avoiding", "beso", 0))
    record.write(tmp_path / "1.json", done_record("avoiding", "beso", 0, likelihood=None, quality=None))
    with pytest.raises(record.InvalidRecord, match="'quality' of the wrong type"):
        record.write(tmp_path / "2.json", done_record("avoiding", "beso", 0, quality=0.5))
