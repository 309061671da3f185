"""Simulated tasks. Importing this package registers them with Gymnasium (and imports neither MuJoCo nor torch)."""

import gymnasium

gymnasium.register(
    "vdd/Avoiding-v0",
    entry_point="envs.avoiding:AvoidingEnv",
    vector_entry_point="envs.avoiding:AvoidingVectorEnv",
)
for _task in ("Aligning", "Pushing", "Sorting", "Stacking", "Kitchen"):
    gymnasium.register(
        f"vdd/{_task}-v0",
        entry_point=f"envs.{_task.lower()}:{_task}Env",
        vector_entry_point=f"envs.{_task.lower()}:{_task}VectorEnv",
    )
gymnasium.register(
    "vdd/BlockPush-v0",
    entry_point="envs.block_push:BlockPushEnv",
    vector_entry_point="envs.block_push:BlockPushVectorEnv",
)
for _task in ("SortingImage", "StackingImage"):
    gymnasium.register(
        f"vdd/{_task}-v0",
        entry_point=f"envs.image_tasks:{_task}Env",
        vector_entry_point=f"envs.image_tasks:{_task}VectorEnv",
    )
gymnasium.register("vdd/Toy-v0", entry_point="envs.toy:ToyEnv", vector_entry_point="envs.toy:ToyVectorEnv")
