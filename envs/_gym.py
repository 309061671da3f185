"""Gymnasium's single and vector interfaces around a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from harness.errors import UserError

if TYPE_CHECKING:
    from envs.base import BatchEnv
    from envs.render import SceneRenderer


def _spaces(batch: type[BatchEnv]) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Box]:
    """Observation and action space of one environment; the action bounds are the original's and are not enforced."""
    bound = batch.action_bound
    dtype = getattr(batch, "obs_dtype", np.float32)  # a task of its own kind (the toy, a plug-in) may say nothing
    low, high = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
    return (
        gymnasium.spaces.Box(low, high, getattr(batch, "obs_shape", None) or (batch.obs_dim,), dtype),
        gymnasium.spaces.Box(-bound, bound, (batch.act_dim,), np.float32),
    )


def _options(options: dict | None, batch: type[BatchEnv], count: int) -> dict[str, Any]:
    """The entries "context" and, for tasks with goals, "goal" of reset's options, repeated for `count` environments."""
    known = ("context", "goal") if getattr(batch, "goal_tokens", 0) else ("context",)
    unknown = sorted(set(options or ()) - set(known))
    if unknown:
        raise UserError(f"unknown reset option {unknown[0]!r}; possible: {', '.join(map(repr, known))}")
    context, goal = ((options or {}).get(name) for name in ("context", "goal"))
    found: dict[str, Any] = {"contexts": None if context is None else [context] * count}
    if goal is not None:
        found["goals"] = np.repeat(np.asarray(goal, np.float32)[None], count, 0)
    return found


class SingleEnv(gymnasium.Env):
    """A batch of one. `unwrapped.step_absolute` and `unwrapped.restore` are those of the batch."""

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 1 / 0.035}
    batch_class: type[BatchEnv]

    def __init__(self, render_mode: str | None = None, max_steps: int | None = None):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"unknown render mode {render_mode!r}; possible: 'rgb_array'")
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces(self.batch_class)
        self.batch = self.batch_class(1, max_steps=max_steps)
        self._renderer: SceneRenderer | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; options: {"context": an index into the evaluation contexts, or an explicit one}.

        Tasks with goals also take {"goal": (G, D or more), the last observations of a demonstration}; `unwrapped.batch.goal`.
        """
        super().reset(seed=seed)
        seeds = [int(self.np_random.integers(2**31))]
        obs = self.batch.reset(seeds=seeds, **_options(options, self.batch_class, 1))
        return self._shaped(obs[0]), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One control step of 35 ms with the policy's action (A,)."""
        return self._result(self.batch.step(_row(action)))

    def step_absolute(self, setpoint: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One control step towards an absolute pose (7,): xyz in m, quaternion wxyz."""
        return self._result(self.batch.step_absolute(_row(setpoint)))

    def restore(self, recording: Any, k: int) -> tuple[np.ndarray, dict]:
        """Starts from row k of a recording (a path or its arrays); returns what `reset` does."""
        return self._shaped(self.batch.restore(0, recording, k)), self._info()

    def render(self) -> np.ndarray | None:
        """(480, 640, 3) uint8 picture, with render_mode="rgb_array"."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from envs.render import SceneRenderer  # only pictures need a GL library

            self._renderer = SceneRenderer(self.batch_class)
        return self._renderer.picture(self.batch.sims.data[0].qpos, moved=self.batch.scene_poses(0))

    def close(self) -> None:
        """Releases the renderer and the batch."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.batch.close()

    def _info(self) -> dict[str, Any]:
        info = {key: value[0] for key, value in self.batch.info().items()}
        return {**info, "success": bool(info["success"])}

    def _shaped(self, obs: np.ndarray) -> np.ndarray:
        return obs.reshape(self.observation_space.shape)

    def _result(self, result: tuple) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, terminated, truncated, _ = result
        return self._shaped(obs[0]), float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._info()


def _row(values: np.ndarray) -> np.ndarray:
    """One environment's numbers as a batch of one; a scalar or a matrix is left for the batch to refuse."""
    values = np.asarray(values)
    return values[None] if values.ndim == 1 else values


class VectorEnv(gymnasium.vector.VectorEnv):
    """N environments in one batch; an ended one is reset by the step after (Gymnasium's NEXT_STEP mode)."""

    metadata: ClassVar[dict] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
    batch_class: type[BatchEnv]

    def __init__(self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self.batch_class)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.batch = self.batch_class(num_envs, num_threads=num_threads, max_steps=max_steps)

    def reset(self, *, seed: int | list | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts N episodes; options: {"context": one for all, "goal": likewise}; seed: one (then seed, seed + 1, …) or N."""
        if isinstance(seed, int):
            super().reset(seed=seed)
            seeds = [seed + i for i in range(self.num_envs)]
        else:
            seeds = self._fresh_seeds(self.num_envs) if seed is None else list(seed)
        obs = self.batch.reset(seeds=seeds, **_options(options, self.batch_class, self.num_envs))
        return obs.reshape(self.observation_space.shape), self._info()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """One control step with actions (N, A)."""
        ended = np.flatnonzero(~self.batch.active)
        obs, reward, terminated, truncated, _ = self.batch.step(actions)
        if len(ended):
            obs = self.batch.reset(seeds=self._fresh_seeds(len(ended)), ids=ended)
            terminated[ended] = truncated[ended] = False
        return obs.reshape(self.observation_space.shape), reward.astype(np.float64), terminated, truncated, self._info()

    def close_extras(self, **kwargs: Any) -> None:
        """Releases the batch."""
        self.batch.close()

    def _fresh_seeds(self, count: int) -> list[int]:
        return [int(s) for s in self.np_random.integers(2**31, size=count)]

    def _info(self) -> dict[str, np.ndarray]:
        info = self.batch.info()
        return {**info, **{f"_{key}": np.ones(self.num_envs, bool) for key in info}}
