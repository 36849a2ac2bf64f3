"""Instructions, rule by rule."""

# ruff: noqa: RUF001 (typographic quotes are what is tested)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge.processor import normalize_task

CASES = [
    ("pick up the cube", "pick up the cube"),
    ("", ""),
    (" \t\n ", ""),
    # white space
    ("  pick\t up\n\nthe   cube ", "pick up the cube"),
    ("pick\u00a0up\u3000the cube", "pick up the cube"),
    # delimiters at both ends, and only there
    ('"pick up"', "pick up"),
    ("'`“”‘’[](){}pick it{}", "pick it"),
    ("[( pick the (red) cube )]", "pick the (red) cube"),
    ("don't drop it", "don't drop it"),
    # labels
    ("task: pick", "pick"),
    ("TASK - pick", "pick"),
    ("Instruction:pick", "pick"),
    ("language instruction: pick", "pick"),
    ("Language_Instruction - pick", "pick"),
    ("goal :  pick", "pick"),
    ("task pick", "task pick"),
    ("tasks: pick", "tasks: pick"),
    ("my task: pick", "my task: pick"),
    ("goal: task: instruction: pick", "pick"),
    # openings
    ("The task is to pick", "pick"),
    ("your TASK is to pick", "pick"),
    ("my task is to pick", "my task is to pick"),
    ("the task is tough", "the task is tough"),
    ("task: the task is to pick", "pick"),
    ("the task is to task: pick", "pick"),
    ("\"Task: 'the task is to [pick]'\"", "pick"),
    # final punctuation, then closers, then punctuation again
    ("pick!?.,;:…", "pick"),
    ("pick it.)", "pick it"),
    ('he said "pick it."', 'he said "pick it'),
    ("pick .  ) . ", "pick"),
    ("pick (the red one).", "pick (the red one"),
    # sentences
    ("Open it. Take the cup! Ready? Go", "open it; take the cup; ready; go"),
    ("open... then close", "open; then close"),
    ("move 2.5 cm", "move 2; 5 cm"),
    ("one, two; three", "one, two; three"),
    (".pick", ".pick"),
    ("...", ""),
    # case
    ("PICK Up ÄÖ", "pick up äö"),
]


@pytest.mark.parametrize(("task", "expected"), CASES)
def test_rule(task: str, expected: str) -> None:
    assert normalize_task(task) == expected


fragments = st.lists(
    st.sampled_from(
        [*"\"'`“”‘’[](){}.,!?;:… -_\n\t", "task", "Goal:", "the task is to ", "your task is to", "pick", "X"]
    ),
    max_size=12,
).map("".join)


@given(fragments | st.text(max_size=40))
def test_ends_and_keeps_its_form(task: str) -> None:
    """It always ends, on one line, without the marks that it strips from the end."""
    result = normalize_task(task)
    assert result == result.strip()
    assert "\n" not in result
    assert not result.endswith(tuple(".,!?;:…\"'”’)]}"))
