"""What a person types, as keys and as answers."""

from __future__ import annotations

import io
import os
import pty
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from molmoact2_edge.cli.terminal import Terminal, table
from molmoact2_edge.errors import InputError


@contextmanager
def piped(typed: bytes) -> Iterator[tuple[Terminal, io.StringIO]]:
    reading, writing = os.pipe()
    os.write(writing, typed)
    os.close(writing)
    shown = io.StringIO()
    try:
        yield Terminal(reading, shown), shown
    finally:
        os.close(reading)


def test_keys_have_names() -> None:
    with piped(b"a\x1b[A\x1bOB\x1b[C\x1b[D \r\n\t\x7fq") as (terminal, _), terminal.keys() as keys:
        pressed = [keys.get(1.0) for _ in range(11)]
    assert pressed[:6] == ["a", "up", "down", "right", "left", "space"]
    assert pressed[6:] == ["enter", "enter", "tab", "backspace", "q"]


def test_no_key_is_none_and_the_end_of_input_an_error() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with Terminal(slave, io.StringIO()).keys() as keys:
            assert keys.get(0.01) is None
            os.write(master, b"x")
            assert keys.get(1.0) == "x"
            os.write(master, b"\x1b")
            assert keys.get(1.0) == "escape"
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(slave)
        os.close(master)
    with (
        piped(b"") as (terminal, _),
        terminal.keys() as keys,
        pytest.raises(InputError, match="asks a person"),
    ):
        keys.get(1.0)


def test_control_c_as_a_byte_interrupts() -> None:
    with piped(b"\x03") as (terminal, _), terminal.keys() as keys, pytest.raises(KeyboardInterrupt):
        keys.get(1.0)


def test_an_answer_is_one_of_those_offered_and_enter_the_first() -> None:
    answers = {"n": "leave it", "y": "write"}
    with piped(b"maybe\n Y \n\n") as (terminal, shown):
        assert terminal.ask("Write?", answers) == "y"
        assert terminal.ask("Write?", answers) == "n"
    assert "Write? [Enter: leave it, y: write] " in shown.getvalue()
    assert "'maybe' is none of the answers." in shown.getvalue()


def test_what_was_typed_before_a_question_is_no_answer() -> None:
    master, slave = pty.openpty()
    try:
        os.write(master, b"y\n")
        terminal = Terminal(slave, io.StringIO())
        threading.Timer(0.3, lambda: os.write(master, b"n\n")).start()
        assert terminal.ask("Write?", {"q": "end", "y": "write", "n": "no"}) == "n"
    finally:
        os.close(slave)
        os.close(master)


def test_a_table_puts_numbers_flush_right() -> None:
    assert table(["joint", "min", ""], [["a", "5", ">"], ["wrist", "1023", ""]]) == [
        "joint   min",
        "a         5  >",
        "wrist  1023",
    ]
