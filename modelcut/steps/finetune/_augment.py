"""Random shifts and flips of images, anew in each epoch."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from modelcut.errors import RecipeError
from modelcut.runtime import Rows

Positive = Annotated[int, Field(ge=1)]


class Augment(BaseModel):
    """How images are varied."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shift: int = Field(
        default=0, ge=0, description="Maximum random shift in pixels, in each direction."
    )
    flip: bool = Field(default=False, description="Flip images horizontally with probability 1/2.")
    image: tuple[Positive, Positive] | tuple[Positive, Positive, Positive] | None = Field(
        default=None,
        description="Shape of an image, [height, width] or [height, width, channels], where "
        "samples are flat.",
    )

    def shape_of(self, row: tuple[int, ...], where: str) -> tuple[int, int, int]:
        """Height, width and channels of a row.

        Raises:
            RecipeError: the rows are no images of this size.
        """
        shape = self.image or row
        if len(shape) not in (2, 3) or np.prod(shape) != np.prod(row):
            what = "×".join(map(str, row))
            raise RecipeError(
                f"{where}: augment: rows of {what} are not images"
                + (f" of {'×'.join(map(str, shape))}" if self.image else ""),
                "say image: [height, width]",
            )
        return shape[0], shape[1], shape[2] if len(shape) == 3 else 1

    def apply(self, rows: Rows, rng: np.random.Generator, where: str) -> Rows:
        """The rows with their first input varied."""
        first = rows.inputs[0]
        height, width, channels = self.shape_of(first.shape[1:], where)
        images = first.reshape(-1, height, width, channels)
        if self.flip:
            images = images.copy()
            chosen = rng.random(len(images)) < 0.5
            images[chosen] = images[chosen, :, ::-1]
        if self.shift:
            reach = self.shift
            padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
            down, right = rng.integers(0, 2 * reach + 1, (2, len(images)))
            moved = windows[np.arange(len(images)), down, right]
            images = np.moveaxis(moved, 1, -1)
        varied = np.ascontiguousarray(images).reshape(first.shape)
        return Rows((varied, *rows.inputs[1:]), rows.labels)
