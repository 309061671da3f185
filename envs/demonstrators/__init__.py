"""Scripted demonstrators: one module a task, each with `GENERATOR_VERSION` and `generate(seed, ..., progress)`."""
