"""Pins as a file of their own, and as a stack's file."""

import pytest

from modelport.errors import BadInput
from modelport.promotion import read_pins

DIGEST = "ab" * 32


def test_a_stack_file_pins_what_its_versions_say(tmp_path):
    file = tmp_path / "Pulumi.prod.yaml"
    file.write_text(f"config:\n  modelport:owner: me\n  modelport:versions:\n    polyp_seg: {DIGEST}\n")
    pins = read_pins(file)
    assert pins.digests == {"polyp_seg": DIGEST}
    diff = pins.diff("polyp_seg", "cd" * 32)
    assert f"-    polyp_seg: {DIGEST}" in diff
    assert f"+    polyp_seg: {'cd' * 32}" in diff


def test_a_stack_file_without_versions_pins_nothing(tmp_path):
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("config:\n  modelport:owner: me\n")
    assert read_pins(file).digests == {}


def test_a_wrong_digest_in_a_stack_file_is_named(tmp_path):
    file = tmp_path / "Pulumi.prod.yaml"
    file.write_text("config:\n  modelport:versions:\n    polyp_seg: v7\n")
    with pytest.raises(BadInput) as caught:
        read_pins(file)
    assert caught.value.key == "polyp_seg"
