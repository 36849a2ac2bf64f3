"""Files, commands, options and targets of make that the documents name exist."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from molmoact2_edge.cli import _COMMANDS
from molmoact2_edge.cli.emulate import EMULATORS

ROOT = Path(__file__).parents[3]
FOLDERS = (
    ".",
    "docs",
    "docs/benchmarks",
    "models",
    "models/so101-touch",
    "models/so101_sim",
    "tests/reference",
)
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
# Where paths in documents begin, besides the document's own folder; a name without a folder may lie anywhere.
BASES = (ROOT, ROOT / "csrc", ROOT / "python/molmoact2_edge")
SOURCES = ("csrc", "python", "drivers", "tools", "docs", "models", "tests")
ENDINGS = r"\.(md|json|py|sh|svg|html|xml|yaml|cuh?|h|npz)$"
# What commands, LeRobot and the system write.
WRITTEN = {
    "report.json",
    "profile.json",
    "report.html",
    "blackbox/",
    "meta/info.json",
    "norm_stats.json",
    "by-path/",
    "cases/*.npz",
}


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def commands_in(document: Path, program: str) -> list[str]:
    """What follows the program's name in blocks and words of code."""
    text = re.sub(r"\\\n\s*", "", text_of(document))
    code = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in code for line in block.splitlines()] + re.findall(r"(?<!`)`([^`\n]+)`", text)
    return [
        line.removeprefix(f"{program} ").split(" # ")[0] for line in lines if line.startswith(f"{program} ")
    ]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(document: Path) -> None:
    quoted = set(re.findall(r"(?<!`)`([\w.*-]+(?:/[\w.*-]+)*/?)`", text_of(document)))
    files = {name for name in quoted if "/" in name or re.search(ENDINGS, name)}
    everywhere = {path.name for folder in SOURCES for path in (ROOT / folder).rglob("*.*")}
    bases = (*BASES, document.parent)
    missing = [
        name for name in files - WRITTEN - everywhere if not any(list(base.glob(name)) for base in bases)
    ]
    assert missing == []


def options_of(words: list[str]) -> set[str]:
    """The options of ``molmoact2-edge WORDS``, as its parser has them."""
    parser = argparse.ArgumentParser()
    if words[0] == "emulate" and len(words) > 1 and words[1] in EMULATORS:
        importlib.import_module(f"molmoact2_emulators.{words[1]}").add_options(parser)
        return set(parser._option_string_actions)
    subparsers = parser.add_subparsers()
    importlib.import_module(f"molmoact2_edge.cli.{words[0].replace('-', '_')}").add_parser(subparsers)
    return set(subparsers.choices[words[0]]._option_string_actions)


def test_commands_and_their_options_exist() -> None:
    found: set[str] = set()
    for document in DOCUMENTS:
        for said in commands_in(document, "molmoact2-edge"):
            words = said.split()
            assert words[0] in _COMMANDS, (name_of(document), said)
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert given <= options_of(words), (name_of(document), said)
            found.add(words[0])
    assert len(found) >= 12


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {said.split()[0] for document in DOCUMENTS for said in commands_in(document, "make")}
    assert len(named) >= 10
    assert named <= targets


def test_options_of_scripts_exist() -> None:
    checked = 0
    for document in DOCUMENTS:
        for script, words in re.findall(r"(tools/[\w/]+\.(?:py|sh))((?: [\w./-]+)*)", text_of(document)):
            for option in re.findall(r"(?<= )--[a-z-]+", words):
                assert f'"{option}"' in text_of(ROOT / script), (name_of(document), script, option)
                checked += 1
    assert checked >= 8
