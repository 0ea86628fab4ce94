"""The templates under `recipes/ci`: their shell lines, run as the servers run them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from toys import MODELS

from modelcut.recipe.recipe import shipped

ROOT = Path(__file__).parents[2]
CI = ROOT / "recipes" / "ci"


@pytest.fixture
def shell(tmp_path):
    """Runs a script in a folder with a model, where `modelcut` and `pip` are at hand."""
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {
        "modelcut": f'exec {sys.executable} -m modelcut "$@"',
        "python": 'printf "%s\\n" "$*" >> "$PWD/installed"',
    }
    for name, line in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "my model.h5").write_bytes((MODELS / "keras3_cnn.h5").read_bytes())

    def run(script, *arguments, **variables):
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        call = ["bash", "-e", "-o", "pipefail", "-c", script, "bash", *arguments]
        return subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True)

    run.work = work
    return run


COMMAND = 'prune magnitude "my model.h5" --sparsity 0.5 --max-bytes {} -o small.h5'


def test_the_github_action(shell):
    action = yaml.safe_load((CI / "github-action" / "action.yml").read_text())
    lines = {step.get("name"): step for step in action["runs"]["steps"]}
    assert action["runs"]["using"] == "composite"
    install, work = lines["Install modelcut"], lines["Run modelcut"]
    here = str(CI / "github-action")
    assert shell(install["run"], WHAT="", HERE=here).returncode == 0
    where = (shell.work / "installed").read_text().split()[-1]
    assert Path(where).resolve() == ROOT
    summary = shell.work / "summary.md"
    summary.touch()

    def run(command):
        return shell(work["run"], COMMAND=command, GITHUB_STEP_SUMMARY=str(summary))

    done = run(COMMAND.format("1MB"))
    assert done.returncode == 0, done.stderr
    assert "::notice title=modelcut::small.h5" in done.stdout
    assert "## Summary" in summary.read_text()
    failed = run(COMMAND.format("1kB"))
    assert failed.returncode not in (0, 2)
    assert "::error title=modelcut%3A gate failed::max_bytes" in failed.stdout
    run("--version; touch broken")  # a command is no script
    assert not (shell.work / "broken").exists()
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_gitlab_template(shell):
    job = yaml.safe_load((CI / "gitlab.yml").read_text())[".modelcut"]
    variables = {**job["variables"], "MODELCUT_COMMAND": COMMAND.format("1kB")}
    for line in job["before_script"]:
        assert shell(line, **variables).returncode == 0
    (line,) = job["script"]
    assert shell(line, **variables).returncode != 0
    (suite,) = ElementTree.parse(shell.work / job["artifacts"]["reports"]["junit"]).getroot()
    assert suite.get("failures") == "1"
    variables["MODELCUT_COMMAND"] = COMMAND.format("1MB")
    assert shell(line, **variables).returncode == 0
    assert (shell.work / "small.h5").exists()


def test_the_hook_of_pre_commit(shell):
    (repository,) = yaml.safe_load((CI / "pre-commit-config.yaml").read_text())["repos"]
    (hook,) = repository["hooks"]
    call = shlex.join(shlex.split(hook["entry"])) + ' "$@"'
    good = str(shipped()["half"])
    bad = shell.work / "recipe bad.yaml"
    bad.write_text("steps: [{prune: magnitud}]\n")
    assert shell(call, good, good).returncode == 0
    done = shell(call, good, str(bad))
    assert done.returncode == 2
    assert "did you mean 'magnitude'" in done.stderr


def test_the_dockerfile_names_what_is_there():
    """There is no Docker here: what is copied exists, and pip's line is that of the README."""
    lines = (CI / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
    assert any("pip install" in line and "/source" in line for line in lines)
    assert lines[-1] == 'ENTRYPOINT ["modelcut"]'
