"""The page: what it says of every state, that it stands alone, and how a browser shows it."""

import html.parser
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import matplotlib.image
import pytest

from gptjax.sweep import plots
from gptjax.sweep.figure import INK
from gptjax.sweep.report import write_report
from gptjax.sweep.results import group, read_result, write_outcome
from gptjax.sweep.table import Table
from tests.unit.sweep.ablation import make_runs, write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


@pytest.fixture
def half_done(runs):
    """One arm whole, and one with a run that failed and one that diverged."""
    for run, loss in zip(runs[:4], [1.0, 2.0, 3.0, 1.5], strict=True):
        write_run(run, loss)
    write_run(runs[4], None)
    write_run(runs[5], 2.0, until=30)
    write_outcome(runs[5], 1, "OSError: <disk> & more")
    return runs


def pages(runs):
    paths = write_report("norms.py", runs, runs[0].workdir.parent)
    return [path.read_text(encoding="utf-8") for path in paths]


def test_a_row_says_how_many_runs_its_mean_is_of(half_done):
    page, markdown = pages(half_done)
    lines = markdown.splitlines()
    whole = next(line for line in lines if line.startswith("| model.norm=layernorm |"))
    part = next(line for line in lines if line.startswith("| model.norm=rmsnorm |"))
    assert whole.split(" | ")[1:5] == ["3 of 3", "2.0000 ± 2.4841", "(first arm)", "2.0000 ± 2.4841"]
    assert part.split(" | ")[1:5] == [
        "1 of 3, 1 diverged",
        "1.5000 – (one seed)",
        "+0.5000 – (one seed)",
        "1.5000 – (one seed)",
    ]
    assert "4 finished, 1 diverged, 1 failed" in markdown
    for words in ("2.0000 ± 2.4841", "1 of 3, 1 diverged", "OSError: &lt;disk&gt; &amp; more"):
        assert words in page


def test_what_runs_are_judged_by_comes_first_and_their_loss_may_rise(tmp_path):
    judged = '{**run, "evaluation.metric": "accuracy"}'
    runs = make_runs(tmp_path, f'[{judged} for run in cross(grid({{"optim.peak_lr": [0.1, 0.2]}}), seeds(2))]')
    for run, accuracy in zip(runs, [0.7, 0.9, 0.6, 0.7], strict=True):
        write_run(run, 9.0, accuracy=accuracy)
    markdown = pages(runs)[1].splitlines()
    rows = [line.split(" | ") for line in markdown if line.startswith(("| arm | finished", "| optim.peak_lr=0.2"))]
    assert rows[0][2:6] == [
        *("validation accuracy", "difference in accuracy"),
        *("validation loss", "difference in loss"),
    ]
    assert rows[1][1:6] == [
        "2 of 2",
        "0.6500 ± 0.6353",
        "-0.1500 ± 0.6353 (2)",
        "9.0000 ± 0.0000",
        "+0.0000 ± 0.0000 (2)",
    ]


def test_its_command_makes_the_same_changes(runs):
    folder = runs[0].workdir.parent
    for path in write_report("norms.py", runs, folder, [("optim.num_steps", "40"), ("sample.prompts", "a b")]):
        command = "python -m gptjax.sweep --config=norms.py --config.optim.num_steps=40 "
        rest = f"'--config.sample.prompts=a b' --workdir={folder} --run --report"
        assert command + rest in html.unescape(path.read_text("utf-8"))


def test_losses_over_other_tokens_are_not_to_be_compared(tmp_path, half_done):
    runs = make_runs(tmp_path, 'cross(grid({"data.tokenizer.name": ["byte", "char"]}), seeds(3))')
    for text in pages(runs):
        assert "Arms differ in data.tokenizer.name: their losses are over other tokens" in text
    alike = make_runs(tmp_path, 'grid({"evaluation.every": [50, 100], "evaluation.batch_size": [8, 16]})')
    for text in (*pages(half_done), *pages(alike)):
        assert "Arms differ" not in text


def test_there_is_a_page_before_there_is_a_run_and_after_each(runs):
    for done in (0, 1):
        page, markdown = pages(runs)
        assert f"{6 - done} not started" in markdown
        assert ("No run has a point yet" in page) == (done == 0)
        write_run(runs[done], 1.0)
    for run in runs:
        write_run(run, 1.0)
    page, markdown = pages(runs)
    assert "6 runs: 6 finished." in markdown
    assert "Not in the means" not in page + markdown


def test_the_page_fetches_nothing_and_every_tag_is_closed(half_done):
    page, _ = pages(half_done)
    assert "//" not in page.replace("<!DOCTYPE html>", "")

    class Nesting(html.parser.HTMLParser):
        stack: list[str]

        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "img", "iframe")
            if tag != "meta":
                self.stack.append(tag)

        def handle_endtag(self, tag):
            assert self.stack.pop() == tag

    parser = Nesting()
    parser.stack = []
    parser.feed(page)
    assert parser.stack == []
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert {name for name in re.findall(r'(?:href="|url\()#([^")]+)', page)} <= set(names)


def test_a_report_is_the_same_when_nothing_has_changed(half_done):
    assert pages(half_done) == pages(half_done)


def test_each_run_is_a_line_in_each_panel_in_the_colour_of_its_arm(half_done):
    arms = group([read_result(run) for run in half_done])
    figure = plots.loss_curves(arms, "valid")
    ET.fromstring(figure)
    lines = re.findall(r"<path [^>]*fill: none; stroke: (#\w{6}); stroke-width: 1.3", figure)
    assert [lines.count(plots.style(number)[0]) for number in (0, 1)] == [3 * 4, 3 * 4]
    assert INK not in figure


def test_the_scale_holds_the_ends_of_all_runs_but_those_that_diverged(half_done):
    """An arm that is much worse than all others is seen; one that explodes does not flatten them."""
    write_run(half_done[3], 4.5)
    write_run(half_done[4], 900.0)
    results = [read_result(run) for run in half_done]
    assert results[4].state == "diverged"
    low, high = plots.scale(results, "valid")
    ends = [result.curve("valid").loss[-1] for result in results if result.state != "diverged"]
    assert low < min(ends) < max(ends) < high < 10


def test_every_arm_has_a_line_of_its_own():
    assert len({plots.style(number) for number in range(24)}) == 24


def test_a_cell_cannot_break_its_table():
    table = Table(("name", "number"), [("a|b <i>", "1")])
    assert table.markdown() == "| name | number |\n| :--- | ---: |\n| a\\|b <i> | 1 |"
    assert "a|b &lt;i&gt;" in table.html()


MEASURE = """<script>
document.body.dataset.overflowing = [...document.querySelectorAll(".wide")].filter(
  box => box.scrollWidth > box.clientWidth).length;
document.body.dataset.numbers = [...new Set([...document.querySelectorAll("td:not(.words)")].map(
  cell => getComputedStyle(cell).textAlign))].join();
document.body.dataset.curves = [...document.querySelectorAll("svg.curves")].map(
  figure => figure.getBoundingClientRect().width > 900 && figure.getBoundingClientRect().height > 400).join();
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome to look at the page with")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page_in_the_colours_of_the_desktop(half_done, tmp_path, dark):
    """The ground has the page's colour, every arm's colour is there, numbers stand to the right and tables fit."""
    page, _ = pages(half_done)
    picture, measured = tmp_path / "page.png", tmp_path / "measured.html"
    measured.write_text(page.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,2400", *theme]
    subprocess.run(
        [*command, f"--screenshot={picture}", measured.as_uri()], check=True, capture_output=True, timeout=120
    )
    image = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(int)
    assert tuple(image[0, 0]) == ((0x16, 0x18, 0x1C) if dark else (255, 255, 255))
    for number in (0, 1):
        color = list(bytes.fromhex(plots.style(number)[0][1:]))
        assert (image == color).all(-1).sum() > 100
    dom = subprocess.run(
        [*command, "--dump-dom", measured.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    assert 'data-overflowing="0"' in dom
    assert 'data-numbers="right"' in dom
    assert 'data-curves="true,true"' in dom
