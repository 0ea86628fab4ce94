"""What a user is told of an error of TensorFlow."""

from __future__ import annotations

from modelcut.engines.keras.tf_errors import reason


def test_of_an_error_in_traced_code_only_the_reason_is_told():
    said = (
        'in user code:\n\n    File "/x/network.py", line 52, in _forward  *\n'
        "        result = self.model(tensors)\n"
        "    ValueError: Exception encountered when calling Sequential.call().\n\n"
        "    'a b' is not a valid root scope name.\n\n"
        "    Arguments received by Sequential.call():\n      • training=False\n"
    )
    assert reason(ValueError(said)) == "'a b' is not a valid root scope name."
    assert reason(ValueError("cannot  add\n3 and 4")) == "cannot add 3 and 4"
    assert reason(TypeError()) == "TypeError"


def test_the_colours_of_a_terminal_are_left_out():
    said = "Exception encountered when calling Conv2D.call().\n\n\x1b[1mNegative size\x1b[0m\n"
    assert reason(ValueError(said)) == "Negative size"
    assert reason(ValueError("\x1b[1;31mno\x1b[0m \x1b]0;title\x07")) == "no \\x1b]0;title\\x07"
