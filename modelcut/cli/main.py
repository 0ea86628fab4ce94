"""The commands, and the one place that catches.

A command's module is imported when that command is called: `modelcut --help` needs none of them.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, ModuleType

_STARTED = os.path.basename(sys.argv[0]) in ("modelcut", "__main__.py") if sys.argv else False


def _stop_early(number: int, frame: FrameType | None) -> None:
    """Ends a process that has only begun to import."""
    del frame
    word = b"interrupted" if number == signal.SIGINT else b"terminated"
    try:
        where = sys.stderr.fileno()  # not always 2: a job has its own
    except (OSError, ValueError, AttributeError):
        where = 2
    os.write(where, b"modelcut: %s; nothing was written\n" % word)
    os._exit(128 + number)


if _STARTED:
    signal.signal(signal.SIGINT, _stop_early)
    signal.signal(signal.SIGTERM, _stop_early)

import errno  # noqa: E402 - a signal may come during these, too
import gc  # noqa: E402
from importlib import import_module  # noqa: E402
from io import TextIOWrapper  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from modelcut import steps  # noqa: E402
from modelcut.errors import ExitCode, ModelcutError, Stopped  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

# Finding plugins of pydantic reads the metadata of every package installed.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

COMPRESS, CONTAINERS, MEASURES, MORE = "Compress", "Convert", "Measure", "More"

COMMANDS = {
    "run": "Apply a recipe to a model, evaluate it before and after, check the gates.",
    **{family: steps.summary(family) for family in steps.families()},
    "pack": "Pack a model losslessly into a .mcut file.",
    "unpack": "Unpack a .mcut file into the original model format.",
    "export": "Convert a model to .tflite for LiteRT on phones and microcontrollers, or to .onnx.",
    "eval": "Evaluate a model on a CSV, alone or compared with another.",
    "compare": "Compare any number of models on a CSV, the first being the reference.",
    "search": "Search for the best model within limits: which steps, at which strength.",
    "sensitivity": "Profile how sensitive each layer is to pruning and quantization.",
    "inspect": "Show layers, shapes, sparsity and encodings of a model file.",
    "report": "Show a saved report again, print its JSON Schema.",
    "scan": "Tell what a model file holds that could execute, read, write or exhaust.",
    "verify": "Check the values in a model file against the checksums kept of them.",
    "recipe": "Check recipes, make one for a model, print their JSON Schema, show examples.",
    "demo": "Compress and evaluate a small model that comes with the package.",
    "docs": "Print the documentation, by topic.",
}

_PANELS = {
    **dict.fromkeys(("run", *steps.families(), "search"), COMPRESS),
    **dict.fromkeys(("pack", "unpack", "export"), CONTAINERS),
    **dict.fromkeys(
        ("eval", "compare", "sensitivity", "inspect", "scan", "verify", "report"), MEASURES
    ),
}

ABOUT = """Compress Keras models: prune, quantize, factorize, and measure the result.

`modelcut COMMAND -h` shows the options that are used most, `modelcut COMMAND --help` or
`modelcut help COMMAND` all of them; `modelcut prune magnitude --help` those of a method.

Exit codes: 0 done, gates passed; 1 a gate failed; 2 bad usage or input;
3 refused as unsafe; 4 out of disk, memory or the like; 5 another worker of a training on several
machines was lost; 70 an internal error; 130 interrupted; 143 terminated.
"""


_ALLOCATIONS = 200_000
"""New objects between two searches for cycles: more than a start makes, none of which is garbage.

At Python's own 700, a tenth of a start goes by; one search among all that is imported takes 20 ms.
"""


def build(
    wanted: str | None, method: str = "", *, told: bool = False, words: Sequence[str] | None = None
) -> typer.Typer:
    """The app, with `wanted` built in full and the other commands by name only.

    Args:
        wanted: name of a command; None: none.
        method: where that is a family of steps, the method that is named behind it; the command
            then goes by both names.
        told: help is asked for.
        words: behind the command; its other options than these need not be there. None: all are.
    """
    import typer

    from modelcut.cli import panels

    app = typer.Typer(
        cls=panels.Group,
        help=ABOUT,
        epilog="modelcut demo",
        rich_markup_mode=None,
        add_completion=True,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", "-V", help="Print the version and exit."),
    ) -> None:
        del version  # handled before anything is built

    for name, summary in COMMANDS.items():
        if name == wanted and name in steps.families():
            import_module("modelcut.cli.step").register(app, name, method, told=told, words=words)
        elif name == wanted:
            import_module(f"modelcut.cli.{name}").register(app, name)
        else:
            panel = _PANELS.get(name, MORE)
            app.command(name, help=summary, rich_help_panel=panel)(_elsewhere)
    return app


_HELP = {"-h", "--help"}
_COMPLETE = "_MODELCUT_COMPLETE"


def _elsewhere() -> None:
    """Stands for a command that was not called."""


def main(argv: list[str] | None = None) -> None:
    """Runs modelcut.

    Args:
        argv: the arguments; None: the process's own.

    Raises:
        SystemExit: always, with one of `ExitCode`.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] in (["--version"], ["-V"]):
        from modelcut import __version__

        print(f"modelcut {__version__}")
        sys.exit(ExitCode.OK)
    _settle_streams()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    works = bool(arguments) and not _HELP & set(arguments) and _COMPLETE not in os.environ
    forks = hasattr(os, "fork") and not os.environ.get("MODELCUT_TRACEBACK")
    if argv is None and works and forks:  # help needs nobody to wait for it
        from modelcut.cli import process

        sys.exit(process.watched(lambda: _done(arguments), _say, arguments))
    sys.exit(_done(arguments))


def _done(arguments: list[str]) -> int:
    """Does what the arguments say; gives the exit code."""
    handlers = _on_signals()
    gc.set_threshold(_ALLOCATIONS, *gc.get_threshold()[1:])
    try:
        code = _call(arguments)
        _flush()
    except BaseException as error:  # noqa: BLE001 - the one place that catches
        code = _told(_origin(error))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if handler is _stop_early else handler)
    return code


def _call(arguments: list[str]) -> int:
    if sys.platform == "win32":  # `safety` costs the other systems' --help some milliseconds
        from modelcut.safety import check_system

        check_system()
    completes = _COMPLETE in os.environ
    words = _words_to_complete() if completes else arguments
    wanted = words[0] if words and words[0] in COMMANDS else None
    told = bool(_HELP & set(arguments))
    if wanted and (told or completes):
        sys.modules.setdefault("numpy", _Later("numpy"))
    method = _method(wanted, words)
    if method and not completes:
        arguments = [arguments[0], *arguments[2:]]
    app = build(wanted, method, told=told, words=None if completes else arguments[1:])
    brief = "-h" in arguments and "--help" not in arguments
    call = {"args": arguments, "standalone_mode": False, "prog_name": "modelcut"}
    return int(app(**call, obj={"brief": brief}) or 0)


def _method(family: str | None, words: list[str]) -> str:
    """The method that stands behind a family of steps; "" for none."""
    if family not in steps.families() or len(words) < 2:
        return ""
    named = steps.aliases(family).get(words[1], words[1])
    return named if named in steps.methods(family) else ""


def _words_to_complete() -> list[str]:
    """The words behind `modelcut` of a line that a shell wants completed."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:]


class _Later(ModuleType):
    """A package that is imported when something of it is used.

    Help comes from the steps' own classes, whose modules import NumPy: a sixth of the wait.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def _origin(error: BaseException) -> BaseException:
    """The signal that an error comes of, if any; C code may make another one of it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, Stopped):
        found = found.__cause__ or found.__context__
    return found or error


def _told(error: BaseException) -> int:
    """Says in one line what ended the process, and gives the exit code."""
    if isinstance(error, ModelcutError):
        return _say(str(error), error.exit_code)
    if isinstance(error, Stopped) and error.number == signal.SIGTERM:
        return _say("terminated; nothing was written", ExitCode.TERMINATED)
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return _say("interrupted; nothing was written", ExitCode.INTERRUPTED)
    if isinstance(error, MemoryError):
        return _say("out of memory", ExitCode.RESOURCES)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has seen enough; the work itself is done and on disk.
        _discard_output()
        return ExitCode.OK
    if isinstance(error, OSError):
        scarce = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENOMEM, errno.EROFS}
        scarce |= {errno.EACCES, errno.EPERM}
        where = f"{error.filename}: " if error.filename else ""
        code = ExitCode.RESOURCES if error.errno in scarce else ExitCode.USAGE
        return _say(f"{where}{error.strerror or error}", code)
    if hasattr(error, "format_message"):  # a usage error of Typer's own parser
        text = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":
            print(text)
            return ExitCode.USAGE
        return _say(f"{text} (--help lists what there is)", ExitCode.USAGE)
    if isinstance(error, SystemExit) or hasattr(error, "exit_code"):
        return int(getattr(error, "exit_code", None) or getattr(error, "code", 0) or 0)
    if os.environ.get("MODELCUT_TRACEBACK"):
        raise error
    what = f"{type(error).__name__}: {error}"
    if _limited():
        return _say(f"{what} (most likely the limit on memory, ulimit -v)", ExitCode.RESOURCES)
    hint = "internal error of modelcut: please report it; MODELCUT_TRACEBACK=1 shows where"
    return _say(f"{what} ({hint})", ExitCode.MISTAKE)


def _limited() -> bool:
    """Whether this process may have less memory than there is: then anything may fail for it."""
    import resource

    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def _say(text: str, code: int) -> int:
    """One line on stderr, whatever the text holds."""
    line = " ".join(text.split("\n"))
    try:
        from modelcut.safety import printable

        line = printable(line, 2000)
    except ImportError:  # no memory is left even for that
        line = ascii(line)[1:-1][:2000]
    if shown := sys.modules.get("modelcut.cli.progress"):
        shown.close()  # the message begins on a line of its own
    try:
        print(f"modelcut: {line}", file=sys.stderr)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
    return code


def _settle_streams() -> None:
    """Closed or plain-ASCII streams must not end the work: it matters more than its echo."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # the next file to be opened would become stdout
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    sys.stdout.flush()


def _discard_output() -> None:
    """Lets the interpreter's last flush go nowhere."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _on_signals() -> dict[int, Any]:
    """Turns signals into exceptions; gives the handlers that stood there before."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Stopped(number)

    try:
        return {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: a test, or a program that calls us
        return {}
