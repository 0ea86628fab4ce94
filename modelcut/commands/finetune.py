"""`modelcut finetune`: see `_step`."""

from modelcut.commands._step import register

__all__ = ["register"]
