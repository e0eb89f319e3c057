"""What the documents tell a reader to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from spkadapt.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "recipes" / "phone" / "README.md"]
COMMANDS = [
    (document.relative_to(ROOT).as_posix(), line.strip())
    for document in DOCUMENTS
    for line in document.read_text().splitlines()
    if line.strip().startswith("spkadapt ")
]


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_every_command_line_in_the_documents_parses(document: str, line: str) -> None:
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = group.commands[name]
    command.make_context(name, arguments)  # raises for an unknown option or a missing argument


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"^make (\w+)", document.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= targets


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_the_readmes_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
