"""From a table or a folder of runs to words, JSON and a page."""

import dataclasses
import json
import re

import numpy as np
import pytest

from experiments.ablations import scaling
from gptjax import config
from gptjax.model import accounting
from gptjax.sweep import scaling_page
from gptjax.sweep.law import Law
from gptjax.sweep.scaling_law import HELP, main
from gptjax.types import UserError
from tests import experiments

TRUTH = Law(1.69, 406.4, 410.7, 0.34, 0.28)


def write_table(path, noise, extra=""):
    params = np.repeat(np.geomspace(5e7, 1.5e10, 6), 4)
    tokens = params * np.tile([5.0, 20.0, 80.0, 320.0], 6)
    loss = TRUTH.loss(params, tokens) * np.exp(np.random.default_rng(0).normal(0, noise, params.shape))
    rows = "".join(f"{N},{D},{L}\n" for N, D, L in zip(params, tokens, loss, strict=True))
    path.write_text(f"params,tokens,loss\n{rows}{extra}")


@pytest.mark.slow
def test_a_table_becomes_words_json_and_a_page(tmp_path, capsys):
    """The same files each time."""
    write_table(tmp_path / "runs.csv", noise=1e-3, extra="1e9,1e10,inf\n")
    written = []
    for _ in range(2):
        assert main([f"--data={tmp_path}/runs.csv", "--budget=5.76e23", "--bootstrap=100"]) == 0
        written.append([(tmp_path / f"scaling_law.{kind}").read_bytes() for kind in ("json", "svg", "html")])
    assert written[0] == written[1]
    out = capsys.readouterr().out
    assert "24 runs of" in out
    assert "line 26: loss=inf is no positive number" in out
    assert "warning" not in out
    report = json.loads((tmp_path / "scaling_law.json").read_text())
    assert report["excluded"][0]["name"] == "line 26"
    for name, truth in {**dataclasses.asdict(TRUTH), "N": TRUTH.optimum(5.76e23).params}.items():
        found = report["quantities"][name]
        assert found["low"] < truth < found["high"], name
        assert found["low"] < found["value"] < found["high"], name
    page = (tmp_path / "scaling_law.html").read_text()
    assert (tmp_path / "scaling_law.svg").read_text().endswith("</svg>\n")
    assert page.count("<svg") == 1
    assert "95 % from" in page
    assert not re.search(r'(src|href)="(?!#|data:)|@import|<script|<link', page)  # it needs no other file


@pytest.mark.slow
def test_what_the_data_does_not_determine_is_said(tmp_path, capsys):
    """A tenth of noise hides what size changes."""
    write_table(tmp_path / "runs.csv", noise=0.1)
    assert main([f"--data={tmp_path}/runs.csv", "--budget=1e30", "--bootstrap=100"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"warning: the data does not determine .*\bbeta\b.*\bN\b", out)
    assert "the fit puts E = 1.91 at the edge of its starts or beyond" in out
    assert "an extrapolation" in out
    json.loads((tmp_path / "scaling_law.json").read_text(), parse_constant=pytest.fail)  # JSON has no NaN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --workdir=DIR"),
        (["--workdir=a", "--data=b.csv"], "either --workdir=DIR"),
        (["--workdir=a", "--budget=-1"], "--budget=-1 is no number of FLOPs"),
        (["--workdir=a", "--bootstrap=10"], "too few for a percentile"),
        (["--data=a.csv", "--params=total"], "has its own count"),
        (["--workdir=nowhere"], "there is no folder nowhere"),
        (["--workdir=.", "--params=totle"], "did you mean total"),
    ],
)
def test_mistakes_are_user_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_help_fits_a_screen(capsys):
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == HELP
    assert len(HELP.splitlines()) <= 24
    assert max(map(len, HELP.splitlines())) <= 120


# ---- the grid of experiments/ablations/scaling.py


def test_the_grid_spends_its_budgets_as_the_project_counts_them():
    """Within a step of each budget, by the counter of the model; enough sizes and lengths for a law."""
    spent = []
    for changes in scaling.sweep():
        written = scaling.get_config()
        with written.unlocked():
            written.update_from_flattened_dict(changes)
        cfg = config.from_config_dict(written)
        config.validate(cfg, 1)
        model = dataclasses.replace(cfg.model, vocab_size=257)
        step = accounting.flops_per_token(model) * cfg.data.batch_size * model.seq_len
        budget = min(scaling.BUDGETS, key=lambda budget: abs(np.log(budget / (step * cfg.optim.num_steps))))
        assert abs(step * cfg.optim.num_steps - budget) <= step / 2
        spent.append((budget, model.d_model))
    assert len(set(spent)) == len(spent) == 19
    assert all(sum(budget == each for each, _ in spent) >= 4 for budget in scaling.BUDGETS)
    assert experiments.load("ablations/scaling").model.d_model in scaling.WIDTHS


def test_its_colours_are_seen_on_both_pages():
    """The contrast of WCAG, where 1 is none at all."""
    near_black, white = (0.0086, 1.0)  # relative luminance of the pages of gptjax/sweep/page.py
    for color in scaling_page.COLORS.colors:
        linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)[:3]
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        assert min((luminance + 0.05) / (near_black + 0.05), (white + 0.05) / (luminance + 0.05)) > 1.7
