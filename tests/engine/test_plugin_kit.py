"""Conversions that every stand-in plugin relies on."""

from typing import Any

import pulumi
import pytest
from plugin_kit import UNKNOWN, Refused, diff_response, differences, has_unknown, plain, properties  # pyright: ignore[reportMissingImports]
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.provider import PropertyDiffKind


def test_values_come_back_as_they_were_with_their_secrets() -> None:
    values: dict[str, Any] = {"a": [1, 1.5, True, {"b": "c"}], "d": {"e": UNKNOWN, "f": []}}
    secrets = frozenset({("a", 3, "b"), ("d",)})
    there_and_back = plain(properties(values, secrets))
    assert there_and_back.values == values
    assert there_and_back.secrets == secrets
    assert isinstance(there_and_back.values["a"][0], int)
    assert isinstance(there_and_back.values["a"][2], bool)


def test_secrets_survive_the_wire() -> None:
    sent = PropertyValue.marshal_map(properties({"data": {"key": "value"}}, {("data",)}))
    assert plain(PropertyValue.unmarshal_map(sent)).secrets == {("data",)}


def test_a_null_is_an_absent_key() -> None:
    assert plain({"a": PropertyValue(None), "b": PropertyValue({"c": PropertyValue(None)})}).values == {"b": {}}


def test_an_asset_is_refused_with_its_place() -> None:
    with pytest.raises(Refused, match=r"a\.b: .*StringAsset"):
        plain({"a": PropertyValue({"b": PropertyValue(pulumi.StringAsset("text"))})})


def test_unknowns_are_found_anywhere() -> None:
    assert has_unknown({"a": [{"b": UNKNOWN}]})
    assert not has_unknown({"a": [{"b": "known"}]})


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, {}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, {"a.b": PropertyDiffKind.UPDATE}),
        ({"a": {"b": 1}}, {"a": {}}, {"a.b": PropertyDiffKind.DELETE}),
        ({"a": [{"n": 1}]}, {"a": [{"n": 1}, {"n": 2}]}, {"a[1]": PropertyDiffKind.ADD}),
        ({"a": [1, 2]}, {"a": [1]}, {"a[1]": PropertyDiffKind.DELETE}),
        ({"data": {}}, {"data": {"a.b": "c"}}, {'data["a.b"]': PropertyDiffKind.ADD}),
        ({"a": 1}, {"a": True}, {"a": PropertyDiffKind.UPDATE}),
        ({"a": "x"}, {"a": UNKNOWN}, {"a": PropertyDiffKind.UPDATE}),
    ],
)
def test_differences_are_named_as_pulumi_names_them(
    old: dict[str, Any], new: dict[str, Any], changed: dict[str, PropertyDiffKind]
) -> None:
    assert differences(old, new) == changed


def test_only_what_replaces_is_marked_as_replacing() -> None:
    changed = {"a": PropertyDiffKind.UPDATE, "b": PropertyDiffKind.ADD}
    response = diff_response(changed, {"a"}, delete_before_replace=True)
    assert response.replaces == ["a"]
    assert response.delete_before_replace
    assert response.detailed_diff["a"].kind is PropertyDiffKind.UPDATE_REPLACE
    assert response.detailed_diff["b"].kind is PropertyDiffKind.ADD
    assert not diff_response(changed, (), delete_before_replace=True).delete_before_replace
