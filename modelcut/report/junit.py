"""The report as JUnit XML: a test case for each gate, for the test reports of CI servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from modelcut.report.gates import told, unchecked
from modelcut.report.schema import Report
from modelcut.safety import printable

_LONGEST = 1000


def render(report: Report) -> str:
    """XML text; a report without gates has one test case, which passed."""
    return of_data(report.to_dict())


def of_data(report: Mapping[str, Any]) -> str:
    """The same of a report that was read from a file."""
    about = str((report["output"] or report["input"])["path"])
    cases = [_case(about, gate) for gate in report["gates"]] or [_named(about, "run", "")]
    failed = sum(not gate["held"] for gate in report["gates"])
    counts = f'tests="{len(cases)}" failures="{failed}" errors="0"'
    if skipped := sum(bool(unchecked(gate)) for gate in report["gates"]):
        counts += f' skipped="{skipped}"'
    warnings = "\n".join(_text(line) for line in report["warnings"])
    said = f"    <system-out>{warnings}</system-out>\n" if warnings else ""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f"<testsuites {counts}>\n"
        f"  <testsuite name={_quoted('modelcut ' + about)} {counts}>\n"
        f"    <properties>\n{''.join(_properties(report))}    </properties>\n"
        f"{''.join(cases)}{said}"
        "  </testsuite>\n"
        "</testsuites>\n"
    )


def _case(about: str, gate: Mapping[str, Any]) -> str:
    if why := unchecked(gate):
        return _named(about, gate["name"], f"      <skipped message={_quoted(why)}/>\n")
    if gate["held"]:
        return _named(about, gate["name"], "")
    message = told(gate)
    failure = f"      <failure message={_quoted(message)}>{_text(message)}</failure>\n"
    return _named(about, gate["name"], failure)


def _named(about: str, name: str, content: str) -> str:
    head = f"    <testcase classname={_quoted(about)} name={_quoted(name)}"
    return f"{head}>\n{content}    </testcase>\n" if content else f"{head}/>\n"


def _properties(report: Mapping[str, Any]) -> Iterator[str]:
    found = {"modelcut": report["modelcut"], "input": report["input"]["path"]}
    found["input.blake3"] = report["input"]["blake3"]
    if report["output"]:
        found["output"] = report["output"]["path"]
        found["output.bytes"] = str(report["output"]["bytes"])
    for name, value in found.items():
        yield f"      <property name={_quoted(name)} value={_quoted(value)}/>\n"


def _quoted(text: str) -> str:
    return quoteattr(printable(text, _LONGEST))


def _text(text: str) -> str:
    return escape(printable(text, _LONGEST))
