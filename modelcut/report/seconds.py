"""Where the time of a job went, for `--profile`."""

from __future__ import annotations

from modelcut.report.schema import Report


def render(report: Report) -> str:
    """Wall seconds by phase, then CPU seconds by work; a line each."""
    lines = ["seconds, one phase after the other"]
    lines += [f"  {name:10}{seconds:9.3f}" for name, seconds in (report.seconds or {}).items()]
    lines.append("CPU seconds, over all threads")
    lines += [f"  {name:10}{seconds:9.3f}" for name, seconds in (report.cpu_seconds or {}).items()]
    return "\n".join(lines) + "\n"
