"""What the processes share that have Keras export a network: its loading, and errors in a line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelcut import engines
from modelcut.engines.keras.tf_errors import reason
from modelcut.engines.process.serve import wind
from modelcut.errors import InputError


@contextlib.contextmanager
def exporting(request: dict[str, Any], *, form: str, hint: str) -> Iterator[Any]:
    """Loads the network of a request, which is exported in the body of the `with` statement.

    Loading and exporting may each take the seconds that the request allows; what takes longer ends
    this process.

    Args:
        request: `source`, `shown`, `dialect`, `suffix`, `trust`, `custom_objects` and `seconds`.
        form: what is made, for messages.
        hint: what else the user can do.

    Yields:
        The network, see `engines.open_network`.

    Raises:
        InputError: it cannot be loaded, or not be exported.
    """
    wind(request["seconds"])
    custom = request["custom_objects"]
    network: Any = engines.open_network(
        Path(request["source"]),
        request["dialect"],
        suffix=request["suffix"],
        trust=request["trust"],
        custom_objects=engines.load_custom_objects(custom) if custom else {},
        apart=False,
    )
    wind(request["seconds"])
    with engines.quiet():
        try:
            yield network
        except Exception as error:  # noqa: BLE001 - Keras and converters raise whatever they meet
            raise InputError(
                f"{request['shown']}: {network.engine} cannot export it to {form}: {reason(error)}",
                hint,
            ) from None
