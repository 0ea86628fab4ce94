"""One family of exceptions: each carries what the user is told and how the process ends."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a `modelcut` process ends; documented in `modelcut docs commands` and in `--help`."""

    OK = 0
    """Done; every gate passed."""
    GATE = 1
    """Done and written, but a gate failed."""
    USAGE = 2
    """Bad usage, or input that is broken or does not fit."""
    UNSAFE = 3
    """Refused: the input would run code, or read outside itself."""
    RESOURCES = 4
    """Out of disk, memory or another resource of the machine."""
    PEER = 5
    """Another worker of a distributed training was lost."""
    MISTAKE = 70
    """An internal error; EX_SOFTWARE of sysexits.h."""
    INTERRUPTED = 130
    """Interrupted (SIGINT)."""
    TERMINATED = 143
    """Terminated (SIGTERM)."""


class ModelcutError(Exception):
    """Base of all errors that a user can cause and mend.

    Attributes:
        message: one line: which file or layer, and what is wrong.
        hint: one line: what to do about it; may be empty.
        exit_code: how the process ends.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(ModelcutError):
    """A wrong call: options that do not go together, a file that is not there."""


class InputError(ModelcutError):
    """A file that is broken, or is not what it should be."""


class RecipeError(ModelcutError):
    """A recipe that does not hold: unknown keys, values out of range, steps that do not compose."""


class InfeasibleError(ModelcutError):
    """No model within the limits was found."""

    exit_code = ExitCode.GATE


class UnsafeError(ModelcutError):
    """A file that would run code or reach outside itself."""

    exit_code = ExitCode.UNSAFE


class ResourceError(ModelcutError):
    """The machine has not enough of something: disk, memory, permission to write."""

    exit_code = ExitCode.RESOURCES


class InternalError(ModelcutError):
    """Something that modelcut promised itself does not hold; nothing that a user did wrong."""

    exit_code = ExitCode.MISTAKE


class PeerError(ModelcutError):
    """A training on several machines in which another one was lost."""

    exit_code = ExitCode.PEER


class WorkerDone(ModelcutError):  # noqa: N818 - nothing went wrong
    """Not an error: this process was a worker of a distributed training, and has no report."""

    exit_code = ExitCode.OK


class Stopped(BaseException):
    """SIGINT or SIGTERM: nothing but the clean-up comes between it and the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
