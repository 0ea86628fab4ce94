"""What is a number in a recipe, and what only looks like one."""

from __future__ import annotations

import pytest

from modelcut.errors import RecipeError
from modelcut.recipe import recipe
from modelcut.recipe.yaml_text import loads

STEP = "steps: [{prune: magnitude, sparsity: %s}]"


@pytest.mark.parametrize("text", ['"0.5"', "true", "'1'", '"5e-1"', "yes"])
def test_text_and_booleans_are_no_numbers(text):
    with pytest.raises(RecipeError, match=r"sparsity: .* is no number"):
        recipe.parse(loads(STEP % text, "r"))


@pytest.mark.parametrize(
    "more", ['seed: "1"', "seed: true", 'gates: {max_accuracy_drop: "0.1"}', "data: {limit: true}"]
)
def test_neither_in_the_head(more):
    with pytest.raises(RecipeError, match="is no number"):
        recipe.parse(loads(f"{STEP % 0.5}\n{more}", "r"))


@pytest.mark.parametrize("text", ["0.5", "5e-1", "1", "+5e-1", ".5"])
def test_numbers_are(text):
    assert recipe.parse(loads(STEP % text, "r")).steps[0].sparsity == float(text)


def test_text_that_is_made_a_number_is_taken_still():
    head = "gates: {max_bytes: 1 MB}\ndata: {scale: 1/255}"
    found = recipe.parse(loads(f"{STEP % 0.5}\n{head}", "r")).head
    assert found.data.scale == 1 / 255
