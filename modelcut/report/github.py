"""The report as annotations of GitHub Actions: failed gates as errors, warnings as warnings.

Names from the file are data: they end no command and begin none.
https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from modelcut.report.cells import size
from modelcut.report.gates import told, unchecked, verdict
from modelcut.report.schema import Report
from modelcut.safety import printable

_LONGEST = 1000
_MOST_WARNINGS = 9
"""GitHub shows ten annotations of a kind for each step."""


def render(report: Report) -> str:
    """A workflow command a line."""
    failed = [gate for gate in report.gates if not gate["held"]]
    lines = [_command("error", "modelcut: gate failed", told(gate)) for gate in failed]
    warnings = report.warnings[:_MOST_WARNINGS]
    lines += [_command("warning", "modelcut", line) for line in warnings]
    if len(report.warnings) > len(warnings):
        more = f"{len(report.warnings) - len(warnings)} more warnings are in the report"
        lines.append(_command("warning", "modelcut", more))
    if report.output and not failed:
        sizes = f"{size(report.input.bytes)} -> {size(report.output.bytes)}"
        gates = f", {len(report.gates)} gates passed" if report.gates else ""
        if any(map(unchecked, report.gates)):
            gates = f", {verdict(report.gates)}"
        lines.append(_command("notice", "modelcut", f"{report.output.path}: {sizes}{gates}"))
    return "".join(f"{line}\n" for line in lines)


def _command(kind: str, title: str, message: str) -> str:
    title = _data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{_data(printable(message, _LONGEST))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
