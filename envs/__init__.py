"""Simulated tasks. Importing this package registers them with Gymnasium (and imports neither MuJoCo nor torch)."""

import gymnasium

gymnasium.register(
    "vdd/Avoiding-v0",
    entry_point="envs.avoiding:AvoidingEnv",
    vector_entry_point="envs.avoiding:AvoidingVectorEnv",
)
