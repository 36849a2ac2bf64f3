"""The checkpoint's settings agree with one another, and training reads the prompts that inference reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import release
from release import NORM_TAG, Shapes, config_json, make_tokenizer, norm_stats_json, write_settings
from trainee import PromptBuilder

from molmoact2_edge.checkpoint import ModelConfig
from molmoact2_edge.sim import COLOURS, instruction


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    rng = np.random.default_rng(0)
    states, actions = rng.uniform(-60, 60, (200, 6)), rng.uniform(-50, 50, (300, 6))
    write_settings(folder, Shapes(), norm_stats_json(states, actions))
    return folder


def test_configuration_names_the_tokenizers_ids() -> None:
    tokenizer = make_tokenizer()
    config = ModelConfig.from_json(config_json(tokenizer, Shapes()))
    config.require_token_ids()
    assert config.state_token_start_id == tokenizer.token_to_id("<state_0>")
    last = tokenizer.token_to_id(f"<state_{config.num_state_tokens - 1}>")
    assert last == config.state_token_start_id + config.num_state_tokens - 1
    assert config.text_config.embedding_rows == tokenizer.get_vocab_size()
    # What may be predicted lies below the image tokens, which `lm_head` has no rows for.
    assert all(token >= config.text_config.vocab_size for token in config.image_token_ids)
    assert last < config.text_config.vocab_size


def test_tokenizer_is_the_same_each_time() -> None:
    assert make_tokenizer().to_str() == make_tokenizer().to_str()


@pytest.mark.parametrize("text", ["touch the red block", "Grüße, 日本", "pick up the cup!\n"])
def test_tokenizer_keeps_any_text(text: str) -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_colours_are_words_of_their_own() -> None:
    tokenizer = make_tokenizer()
    ids = [tokenizer.encode(f"user\nThe task is to {instruction(c)}. The setup is ").ids for c in COLOURS]
    assert len({len(one) for one in ids}) == 1
    assert [sum(a != b for a, b in zip(ids[0], other, strict=True)) for other in ids[1:]] == [1, 1]


def test_prompts_in_bulk_equal_those_of_inference(settings: Path) -> None:
    builder = PromptBuilder(settings)
    rng = np.random.default_rng(1)
    # Beyond the statistics too, where states are clipped.
    states = rng.uniform(-90, 90, (20, 6)).astype(np.float32)
    images = builder.processor.images([np.zeros((112, 112, 3), np.uint8)] * 2)
    suffixes = builder.suffixes(states)
    for row, state in enumerate(states):
        for column, colour in enumerate(COLOURS):
            prompt = builder.processor.prompt(
                images, task=f"Touch the {colour.upper()} block.", state=state, norm_tag=NORM_TAG, depth=False
            )
            ids = np.concatenate([builder.prefix.numpy(), suffixes[row, column]])
            np.testing.assert_array_equal(ids, prompt.input_ids)
            assert not prompt.token_type_ids[len(builder.prefix) :].any()


def test_shipped_settings_are_those_that_training_writes() -> None:
    shipped = Path(__file__).resolve().parents[3] / "models" / "so101-touch"
    config = ModelConfig.from_json(config_json(make_tokenizer(), release.Shapes()))
    builder = PromptBuilder(shipped)
    assert builder.config == config
    assert (shipped / "tokenizer.json").read_text() == make_tokenizer().to_str(pretty=True)
