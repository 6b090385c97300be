"""What the stand-in for the random provider refuses, and what its values look like; its life is in `test_engine`."""

import string
from typing import Any

import pytest
from plugin_kit import UNKNOWN  # pyright: ignore[reportMissingImports]
from random_plugin import ID, PASSWORD, STRING, new_id, new_text, refusals  # pyright: ignore[reportMissingImports]


@pytest.mark.parametrize(
    ("token", "inputs"),
    [
        (PASSWORD, {"length": 40, "special": False, "keepers": {"generation": "1"}}),
        (STRING, {"length": 1, "minLower": 1}),
        (ID, {"byteLength": 4, "prefix": "a-"}),
        (PASSWORD, {"length": UNKNOWN, "keepers": UNKNOWN}),
    ],
)
def test_good_inputs_are_taken(token: str, inputs: dict[str, Any]) -> None:
    assert refusals(token, inputs) == []


@pytest.mark.parametrize(
    ("token", "inputs", "field"),
    [
        ("random:index/randomUuid:RandomUuid", {}, ""),
        (PASSWORD, {}, "length"),
        (PASSWORD, {"length": 0}, "length"),
        (PASSWORD, {"length": "40"}, "length"),
        (PASSWORD, {"length": 40, "keeper": {}}, "keeper"),
        (PASSWORD, {"length": 3, "minLower": 2, "minUpper": 2}, "length"),
        (STRING, {"length": 3, **dict.fromkeys(("lower", "upper", "numeric", "special"), False)}, "lower"),
        (ID, {"length": 4}, "length"),
    ],
)
def test_bad_inputs_are_refused_by_their_field(token: str, inputs: dict[str, Any], field: str) -> None:
    assert field in [found for found, _ in refusals(token, inputs)]


def test_a_text_has_the_characters_that_are_asked_for() -> None:
    text = new_text({"length": 40, "special": False, "upper": False, "minNumeric": 30})
    assert len(text) == 40
    assert set(text) <= set(string.ascii_lowercase + string.digits)
    assert sum(character.isdigit() for character in text) >= 30
    assert "!" in new_text({"length": 30, "overrideSpecial": "!", "minSpecial": 1})


def test_the_notations_of_an_id_are_of_the_same_bytes() -> None:
    made = new_id({"byteLength": 5, "prefix": "p-"})
    assert len(made["hex"]) == len("p-") + 10
    assert int(made["hex"].removeprefix("p-"), 16) == int(made["dec"].removeprefix("p-"))
