"""The matrices that kernels multiply; see `modelcut.steps.inputs`."""

from modelcut.steps.inputs import matrices, refusal

__all__ = ["matrices", "refusal"]
