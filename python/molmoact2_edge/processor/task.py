"""Bringing an instruction into the form in which the model met instructions in training."""

from __future__ import annotations

import re

_DELIMITERS = "\"'`“”‘’[](){}"  # noqa: RUF001
_CLOSERS = "\"'”’)]}"  # noqa: RUF001
_SENTENCE_ENDS = ".,!?;:…"
_LABEL = re.compile(r"(?:task|instruction|language[ _]instruction|goal)\s*[:\-]\s*", re.IGNORECASE)
_OPENING = re.compile(r"(?:the|your)\s+task\s+is\s+to\s+", re.IGNORECASE)


def normalize_task(task: str) -> str:
    """The instruction without quotes, labels and final punctuation, one line, lower case, sentences joined by `; `."""
    task = " ".join(task.split())
    before = None
    while task != before:
        before = task
        task = task.strip(_DELIMITERS).strip()
        for prefix in (_LABEL, _OPENING):
            found = prefix.match(task)
            if found:
                task = task[found.end() :].strip()
        for trailing in (_SENTENCE_ENDS, _CLOSERS, _SENTENCE_ENDS):
            task = task.rstrip(trailing).rstrip()
    sentences = [part.strip() for part in re.split(r"[.!?]+", task)]
    sentences = [part for part in sentences if part]
    return ("; ".join(sentences) if len(sentences) > 1 else task).lower()
