"""Names of fleets, and the devices that they stand for."""

import jax
import pytest

from gptjax.chips import CHIPS
from gptjax.plan import topology
from gptjax.plan.gpu_target import TARGETS, target_config
from gptjax.plan.topology import TORI, open_fleet
from gptjax.types import UserError
from tests.unit.plan.compilers import needs_gpu_compiler, needs_tpu_compiler


@pytest.mark.parametrize(
    ("name", "slices", "words"),
    [
        ("v5q:4x4x4", 1, "no chip 'v5q'; did you mean v5p"),
        ("v5p", 1, "not of the form v5p:AxBxC"),
        ("v5p:8x8", 1, "not of the form v5p:AxBxC"),
        ("v5e:16x0", 1, "with positive sizes"),
        ("h100:8", 1, "not of the form h100:AxB"),
        ("h100:8x8", 2, "only TPUs come in slices"),
        ("v5p:4x4x4", 0, "one or more"),
        ("cpu:99", 1, "has started with 8 devices"),
        pytest.param("v5p:3x3x3", 1, "no such TPU slice", marks=needs_tpu_compiler),
    ],
)
def test_a_wrong_name_says_what_is_right(name, slices, words):
    assert jax.device_count() == 8  # which starts jax, as the words say of one of them
    with pytest.raises(UserError, match=words):
        open_fleet(name, slices)


@pytest.mark.parametrize(("name", "extra"), [("v5p:2x2x1", "tpu"), ("h100:1x8", "plan-gpu")])
def test_a_missing_compiler_names_its_extra(name, extra, monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"gptjax\[{extra}\]"):
        open_fleet(name)


@needs_tpu_compiler
@pytest.mark.parametrize(
    ("name", "slices", "wraps", "chips", "devices"),
    [
        ("v5p:4x4x8", 1, (True, True, True), 128, 128),
        ("v5p:2x2x1", 2, (False, False, False), 8, 8),
        ("v4:2x2x4", 1, (False, False, True), 16, 16),
        ("v5e:16x16", 1, (True, True), 256, 256),
        ("v6e:1x1", 1, (False, False), 1, 1),
        ("tpu7x:2x2x1", 1, (False, False, False), 4, 8),
    ],
)
def test_tpus_lie_on_a_torus(name, slices, wraps, chips, devices):
    fleet = open_fleet(name, slices)
    assert (fleet.wraps, fleet.num_chips, len(fleet.devices)) == (wraps, chips, devices)
    places = {fleet.place(device) for device in fleet.devices}
    assert len(places) == chips
    assert {island for island, _ in places} == set(range(slices))


@needs_gpu_compiler
def test_gpus_live_in_hosts():
    fleet = open_fleet("h100:2x4")
    assert [fleet.place(device)[0] for device in fleet.devices] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_every_chip_has_what_its_platform_needs():
    assert {chip.name for chip in CHIPS.values() if chip.platform == "tpu"} == set(TORI)
    assert {chip.name for chip in CHIPS.values() if chip.platform == "cuda"} == set(TARGETS)
    assert all(chip.source and chip.flops > chip.hbm_bandwidth >= chip.network_bandwidth for chip in CHIPS.values())


def test_a_gpu_is_described_in_the_compilers_terms():
    text = target_config(CHIPS["h100"])
    assert "core_count: 132" in text
    assert "major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES" in text
    assert text.count("{") == text.count("}")
