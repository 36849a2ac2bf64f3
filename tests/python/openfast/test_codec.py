"""The codec against scipy and the tokenizers library, on tokenizers fitted here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.fft import dct, idct
from tokenizers import Tokenizer

from molmoact2_edge import OpenFast
from molmoact2_edge.byte_level import character_classes, read_tables
from molmoact2_edge.errors import CheckpointError, InputError

_REFERENCE = Path(__file__).parents[2] / "reference"


def smooth_chunks(count: int, steps: int, dims: int, seed: int) -> NDArray[np.float64]:
    """Random walks inside [-1, 1], as trajectories are."""
    steps_of_walk = np.random.default_rng(seed).normal(0, 0.1, (count, steps, dims))
    return np.clip(np.cumsum(steps_of_walk, axis=1), -1, 1)


@pytest.fixture(scope="module")
def fitted() -> OpenFast:
    return OpenFast.fit(smooth_chunks(200, 12, 5, 0), vocab_size=300, scale=12)


def library_of(fast: OpenFast, folder: Path) -> Tokenizer:
    fast.save(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def library(fitted: OpenFast, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return library_of(fitted, tmp_path_factory.mktemp("fitted"))


def public_text(chunk: NDArray[np.float64], scale: float, min_token: int) -> str:
    codes = np.maximum(np.rint(dct(chunk, axis=0, norm="ortho") * scale) - min_token, 0)
    return "".join(map(chr, codes.astype(int).ravel()))


def test_fit_keeps_what_it_was_given(fitted: OpenFast, tmp_path: Path) -> None:
    chunks = smooth_chunks(200, 12, 5, 0)
    coefficients = np.rint(dct(chunks, axis=1, norm="ortho") * 12)
    assert fitted.scale == 12
    assert fitted.min_token == coefficients.min()
    assert 256 < fitted.vocab_size <= 300
    fitted.save(tmp_path)
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    assert processor["scale"] == 12
    assert processor["min_token"] == coefficients.min()
    assert processor["vocab_size"] == fitted.vocab_size
    assert (processor["time_horizon"], processor["action_dim"]) == (12, 5)


def test_fit_compresses_what_it_saw_and_encodes_it_all(fitted: OpenFast) -> None:
    chunks = smooth_chunks(200, 12, 5, 0)
    lengths = []
    for chunk in chunks:
        tokens = fitted.encode(chunk)
        back, valid = fitted.decode(tokens, 12, 5)
        assert valid
        # An orthonormal transform keeps the length of the rounding error, half a step per coefficient.
        assert np.linalg.norm(back - chunk) <= 0.5 / 12 * np.sqrt(60)
        lengths.append(len(tokens))
    assert np.mean(lengths) < 0.6 * 60


def test_fit_takes_chunks_of_several_lengths() -> None:
    fast = OpenFast.fit([*smooth_chunks(20, 10, 3, 1), *smooth_chunks(20, 15, 3, 2)], vocab_size=200)
    for steps in (10, 15):
        chunk = smooth_chunks(20, steps, 3, 1 if steps == 10 else 2)[4]
        assert fast.decode(fast.encode(chunk), steps, 3)[1]


@settings(max_examples=150)
@given(
    chunk=arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 6)), elements=st.floats(-0.9, 0.9))
)
def test_encode_agrees_with_scipy_and_the_library(
    fitted: OpenFast, library: Tokenizer, chunk: NDArray[np.float64]
) -> None:
    scaled = dct(chunk, axis=0, norm="ortho") * fitted.scale
    if np.any(np.abs(np.abs(scaled - np.floor(scaled)) - 0.5) < 1e-9):
        return  # a tie: which way it goes depends on the last bit of either transform
    text = public_text(chunk, fitted.scale, fitted.min_token)
    expected = library.encode(text).ids
    if library.decode(expected) == text:
        tokens = fitted.encode(chunk)
        assert tokens == expected
        back, valid = fitted.decode(tokens, *chunk.shape)
        assert valid
        codes = np.array([ord(character) for character in text]).reshape(chunk.shape)
        public = idct((codes + fitted.min_token) / fitted.scale, axis=0, norm="ortho")
        np.testing.assert_allclose(back, public, rtol=0, atol=1e-12)
    else:
        with pytest.raises(InputError, match="alphabet"):
            fitted.encode(chunk)


@settings(max_examples=300)
@given(tokens=st.lists(st.integers(0, 299), max_size=40), steps=st.integers(1, 5), dims=st.integers(1, 4))
def test_decode_agrees_with_the_library_or_is_invalid(
    fitted: OpenFast, library: Tokenizer, tokens: list[int], steps: int, dims: int
) -> None:
    chunk, valid = fitted.decode(tokens, steps, dims)
    text = library.decode([token for token in tokens if token < fitted.vocab_size])
    in_range = all(token < fitted.vocab_size for token in tokens)
    assert valid == (in_range and "\ufffd" not in text and len(text) == steps * dims)
    assert chunk.shape == ((steps, dims) if valid else (0, dims))
    if valid:
        codes = np.array([ord(character) for character in text]).reshape(steps, dims)
        public = idct((codes + fitted.min_token) / fitted.scale, axis=0, norm="ortho")
        np.testing.assert_allclose(chunk, public, rtol=0, atol=1e-12)


def plain_tokenizer(*, use_regex: bool, merges: list[list[str]] | list[str]) -> dict[str, Any]:
    """Every single byte, and what the merges make of them."""
    from molmoact2_edge.byte_level import byte_characters

    joined = ["".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate([*byte_characters(), *joined])},
            "merges": merges,
        },
    }


@pytest.mark.parametrize("use_regex", [True, False])
@settings(max_examples=300)
@given(
    text=st.text(
        st.one_of(
            st.sampled_from(" \t\n\x1c\x85\xa0\u2003'`abrevdlmst019²½ªéΩßЖ\u0301!?-"),
            st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cn"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_words_and_merges_are_the_librarys(use_regex: bool, text: str) -> None:
    # Merges that fire across as many class boundaries as there are, so that a wrong cut shows.
    singles = ["Ġ", "a", "1", "!", "'", "s", "Ċ", "Ã", "Â", "³"]
    merges = [[left, right] for left in singles for right in singles]
    tokenizer = plain_tokenizer(use_regex=use_regex, merges=merges)
    content = json.dumps(tokenizer)
    fast = OpenFast(content, scale=1, min_token=0)
    # One step: each number is its own coefficient, so the chunk is the text.
    chunk = np.array([[ord(character) for character in text]], np.float64)
    expected = Tokenizer.from_str(content).encode(text).ids
    assert fast.encode(chunk) == expected
    decoded, valid = fast.decode(expected, 1, len(text))
    assert valid == ("\ufffd" not in text)
    if valid:
        assert np.array_equal(decoded, chunk)


def test_character_classes_are_the_librarys() -> None:
    # A word ends where the class changes: the class of c is that of the probe it stays together with.
    tokenizer = Tokenizer.from_str(json.dumps(plain_tokenizer(use_regex=True, merges=[])))
    classes = character_classes()
    probes = {1: "a", 2: "1", 0: "!"}
    for code in range(0x80, 0x800):
        if classes[code] == 3:
            continue
        for value, probe in probes.items():
            words = tokenizer.pre_tokenizer.pre_tokenize_str(chr(code) + probe)
            assert (len(words) == 1) == (classes[code] == value), hex(code)


def test_older_merge_notation_reads_the_same() -> None:
    pairs = json.dumps(plain_tokenizer(use_regex=True, merges=[["a", "b"], ["ab", "a"]]))
    lines = json.dumps(plain_tokenizer(use_regex=True, merges=["a b", "ab a"]))
    assert np.array_equal(read_tables(pairs).merges, read_tables(lines).merges)
    assert OpenFast(lines, scale=1, min_token=0).encode([[97.0, 98.0, 97.0]]) == [257]


def test_decode_takes_lists_and_arrays(fitted: OpenFast) -> None:
    chunk = smooth_chunks(200, 12, 5, 0)[3]
    tokens = fitted.encode(chunk)
    expected, _ = fitted.decode(tokens, 12, 5)
    for form in (np.array(tokens), np.array(tokens, np.uint16), tuple(tokens), np.array(tokens)[::1]):
        assert np.array_equal(fitted.decode(form, 12, 5)[0], expected)
    empties: list[Any] = [[], np.empty(0, np.int64), ()]
    for empty in empties:
        assert not fitted.decode(empty, 12, 5)[1]


@pytest.mark.parametrize("token", [-1, 300, 2**31, 2**63, -(2**70)])
def test_ids_out_of_range_are_invalid(fitted: OpenFast, token: int) -> None:
    tokens = fitted.encode(smooth_chunks(200, 12, 5, 0)[3])
    assert not fitted.decode([*tokens, token], 12, 5)[1]
    assert not fitted.decode([token, *tokens[1:]], 12, 5)[1]


@pytest.mark.parametrize(
    ("tokens", "horizon", "action_dim"),
    [
        ([1, 2], 0, 1),
        ([1, 2], 1, -1),
        ([1, 2], 10**6, 1),
        ([1, 2], 1, 10**6),
        ([1.0, 2.0], 1, 2),
        (["1"], 1, 1),
        ([[1, 2]], 1, 2),
        (np.array([1.0, 2.0]), 1, 2),
        (np.array([[1, 2]]), 1, 2),
    ],
)
def test_decode_refuses_wrong_arguments(fitted: OpenFast, tokens: Any, horizon: int, action_dim: int) -> None:
    with pytest.raises(InputError):
        fitted.decode(tokens, horizon, action_dim)


@pytest.mark.parametrize(
    "chunk",
    [
        np.zeros(5),
        np.zeros((2, 3, 4)),
        np.zeros((0, 5)),
        np.zeros((5, 0)),
        np.full((2, 2), np.nan),
        np.array([[0.0, np.inf]]),
        np.zeros((1025, 1)),
        "text",
        [[1.0], [1.0, 2.0]],
        np.full((12, 5), 100.0),  # far outside the alphabet
        np.full((12, 5), 1e308),
    ],
)
def test_encode_refuses_what_is_no_chunk(fitted: OpenFast, chunk: Any) -> None:
    with pytest.raises(InputError):
        fitted.encode(chunk)


def test_encode_does_not_change_or_keep_the_chunk(fitted: OpenFast) -> None:
    chunk = smooth_chunks(1, 12, 5, 3)[0]
    wide = np.repeat(chunk, 2, axis=1)
    assert fitted.encode(wide[:, ::2]) == fitted.encode(chunk)
    assert fitted.encode(np.asfortranarray(chunk)) == fitted.encode(chunk)
    assert fitted.encode(chunk.tolist()) == fitted.encode(chunk)


@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        ([], {}),
        ([np.zeros(3)], {}),
        ([np.full((2, 2), np.inf)], {}),
        (smooth_chunks(10, 12, 5, 0), {"vocab_size": 20}),
        (smooth_chunks(10, 12, 5, 0), {"scale": 0.0}),
        (smooth_chunks(10, 12, 5, 0), {"scale": float("nan")}),
        (smooth_chunks(10, 12, 5, 0), {"scale": 1e6}),
        ([np.full((2, 2), 1e300)], {}),
    ],
)
def test_fit_refuses_what_it_cannot_use(chunks: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        OpenFast.fit(chunks, **options)


def _copy(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the tiny tokenizer with one of its files changed."""
    for path in (_REFERENCE / "openfast-tiny").glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("processor_config.json", lambda c: c.pop("min_token"), "min_token must be an integer"),
        ("processor_config.json", lambda c: c.update(min_token=1.5), "min_token"),
        ("processor_config.json", lambda c: c.update(min_token=2**40), "32 bits"),
        ("processor_config.json", lambda c: c.pop("scale"), "scale must be a number"),
        ("processor_config.json", lambda c: c.update(scale=0), "positive and finite"),
        ("processor_config.json", lambda c: c.update(scale=float("nan")), "positive and finite"),
        ("processor_config.json", lambda c: c.update(scale=10**400), "too large"),
        ("processor_config.json", lambda c: c.update(time_horizon="x"), "time_horizon"),
        ("tokenizer_config.json", lambda c: c.update(clean_up_tokenization_spaces=True), "clean_up"),
        ("tokenizer.json", lambda c: c.pop("model"), "no object 'model'"),
        ("tokenizer.json", lambda c: c["model"].update(type="WordPiece"), "model.type"),
        ("tokenizer.json", lambda c: c["model"].update(dropout=0.1), "model.dropout"),
        ("tokenizer.json", lambda c: c["model"].update(ignore_merges=True), "model.ignore_merges"),
        ("tokenizer.json", lambda c: c["model"].update(byte_fallback=True), "model.byte_fallback"),
        ("tokenizer.json", lambda c: c["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        ("tokenizer.json", lambda c: c["model"].update(vocab={}), "model.vocab"),
        ("tokenizer.json", lambda c: c["model"]["vocab"].update(x=999), "ids 0 to"),
        ("tokenizer.json", lambda c: c["model"]["vocab"].update({"\ud800": 64}), "not Unicode text"),
        ("tokenizer.json", lambda c: c["model"].update(merges=None), "model.merges"),
        ("tokenizer.json", lambda c: c["model"]["merges"].append(["a"]), "pairs of tokens"),
        ("tokenizer.json", lambda c: c["model"]["merges"].append(["Ā", "zz"]), "not in the vocabulary"),
        ("tokenizer.json", lambda c: c.update(normalizer={"type": "NFC"}), "normalizer"),
        ("tokenizer.json", lambda c: c.update(truncation={"max_length": 3}), "truncation"),
        ("tokenizer.json", lambda c: c.update(added_tokens=[{"id": 64, "content": "<pad>"}]), "added_tokens"),
        ("tokenizer.json", lambda c: c.update(pre_tokenizer=None), "pre_tokenizer"),
        ("tokenizer.json", lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
        ("tokenizer.json", lambda c: c["pre_tokenizer"].update(use_regex="yes"), "use_regex"),
        ("tokenizer.json", lambda c: c.update(decoder={"type": "Metaspace"}), "decoder"),
        (
            "tokenizer.json",
            lambda c: c.update(post_processor={"type": "TemplateProcessing"}),
            "post_processor",
        ),
    ],
)
def test_files_that_describe_something_else_are_refused(
    tmp_path: Path, name: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        OpenFast.from_pretrained(_copy(tmp_path, name, change))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe"])
def test_missing_and_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = _copy(tmp_path, name, lambda _: None)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        OpenFast.from_pretrained(folder)
    assert str(tmp_path) in str(error.value)


def test_a_lone_step_may_stand_in_a_sequence(tmp_path: Path) -> None:
    def wrap(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [content["pre_tokenizer"]]}
        content["decoder"] = {"type": "Sequence", "decoders": [content["decoder"]]}

    fast = OpenFast.from_pretrained(_copy(tmp_path, "tokenizer.json", wrap))
    with np.load(_REFERENCE / "openfast-tiny" / "vectors.npz") as vectors:
        tokens = vectors["tokens"][0]
        assert fast.encode(vectors["actions"][0]) == tokens[tokens >= 0].tolist()


def test_saving_over_a_tokenizer_replaces_it(fitted: OpenFast, tmp_path: Path) -> None:
    OpenFast.from_pretrained(_REFERENCE / "openfast-tiny").save(tmp_path)
    fitted.save(tmp_path)
    assert OpenFast.from_pretrained(tmp_path).vocab_size == fitted.vocab_size
    assert len(list(tmp_path.iterdir())) == 3
