"""Which ways to run a config are tried, in which order, and when the search ends."""

import dataclasses
import types

import pytest

from gptjax.config import ExperimentConfig
from gptjax.plan import search as searching
from gptjax.plan.search import OBJECTIVES, candidates, rank, search
from gptjax.plan.topology import open_fleet
from gptjax.sharding import axes_of
from gptjax.types import UserError


@pytest.fixture(scope="module")
def fleet():
    return open_fleet("cpu:8")


def experiment(batch_size=16, **model):
    cfg = ExperimentConfig()
    changed = dataclasses.replace(cfg.model, **{"vocab_size": 256, "seq_len": 64, **model})
    return dataclasses.replace(cfg, model=changed, data=dataclasses.replace(cfg.data, batch_size=batch_size))


def test_candidates_keep_the_batch_and_use_every_axis_of_their_rules(fleet):
    cfg = experiment()
    found = candidates(cfg, fleet, "time")
    assert {candidate.cfg.mesh.rules for candidate in found} >= {"dp", "fsdp", "fsdp_tp"}
    for candidate in found:
        assert candidate.cfg.data == cfg.data
        assert {axis for axis, size in candidate.sizes.items() if size > 1} <= axes_of(candidate.cfg.mesh.rules)
    assert len({(c.cfg.mesh, c.cfg.model.remat, c.cfg.train) for c in found}) == len(found)


def test_the_estimate_leaves_out_what_cannot_fit(fleet):
    """On chips of 40 MB only sharded weights, little at a time and remat are left."""
    small = dataclasses.replace(fleet, chip=dataclasses.replace(fleet.chip, hbm_bytes=40e6))
    few, all_of_them = (candidates(experiment(d_model=512), chosen, "time") for chosen in (small, fleet))
    assert 0 < len(few) < len(all_of_them)
    assert "dp" not in {candidate.cfg.mesh.rules for candidate in few}


def plan(fits=True, seconds=1.0, peak=1, wires=0.1):
    times = {"compute": seconds, "hbm": 0.1, "interconnect": wires}
    return types.SimpleNamespace(
        fits=fits,
        bound="compute" if fits else None,
        step_seconds=times,
        peak_hbm_bytes=peak,
        wire_bytes_per_chip={"all-gather": wires},
    )


def test_what_is_measured_corrects_what_is_estimated(fleet):
    """All takes 100 times the estimate: of each mesh and remat, one that is too large is tried at most."""
    cfg = experiment()
    small = dataclasses.replace(fleet, chip=dataclasses.replace(fleet.chip, hbm_bytes=1e9))
    estimates = {candidate.cfg: candidate.bytes for candidate in candidates(cfg, small, "time")}
    tried = []

    def attempt(cfg, label):
        tried.append(cfg)
        return plan(peak=100 * estimates[cfg])

    list(search(cfg, small, "time", 1e9, attempt))
    too_large = [(cfg.mesh, cfg.model.remat) for cfg in tried if 100 * estimates[cfg] > 1e9]
    assert 0 < len(too_large) == len(set(too_large))
    assert len(tried) < len(estimates)


def test_the_limit_ends_the_search_before_what_would_pass_it(fleet, monkeypatch):
    """Compiles take 10 s and the limit is 35: three are begun, and always one."""
    now = [0.0]
    monkeypatch.setattr(searching.time, "monotonic", lambda: now[0])

    def attempt(cfg, label):
        now[0] += 10
        return plan()

    assert len(list(search(experiment(), fleet, "time", 35, attempt))) == 3
    assert len(list(search(experiment(), fleet, "time", 0, attempt))) == 1


def test_the_quickest_that_fits_comes_first_and_of_equals_that_with_less_on_the_wires():
    plans = [plan(fits=False), plan(seconds=3.0), plan(seconds=2.0, wires=0.5), plan(seconds=2.0, wires=0.4)]
    assert sorted(plans, key=lambda plan: rank(plan, "time")) == plans[::-1]


def test_what_is_best_can_be_chosen():
    """By the estimate, which orders what is tried, and by what was measured."""
    plans = [plan(seconds=3.0, wires=0.1, peak=2), plan(seconds=1.0, wires=0.3, peak=3), plan(wires=0.2, seconds=2.0)]
    for by, first in (("wires", plans[0]), ("time", plans[1]), ("memory", plans[2])):
        assert min(plans, key=lambda plan: rank(plan, by)) is first


def test_candidates_come_in_the_order_of_what_is_searched_by(fleet):
    for by in ("wires", "memory"):
        cost = OBJECTIVES[by].estimated
        found = candidates(experiment(), fleet, by)
        assert cost(found[0]) == min(map(cost, found))


def test_a_batch_that_no_mesh_divides_is_refused(fleet):
    with pytest.raises(UserError, match="no mesh of 8 devices suits"):
        list(search(experiment(batch_size=3, num_heads=1, d_model=3), fleet, "time", 10, lambda *_: plan()))
