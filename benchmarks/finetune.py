"""What the fine-tuning experiments reached, beside a logistic regression on TF-IDF of words and characters.

  GPTJAX_DATA=DIR python benchmarks/finetune.py [--runs=runs] [--output=benchmarks/finetune.json] [EXPERIMENT ..]

Runs nothing but the regression: of a run it shows the checkpoint that is best by its own metric on the validation file,
and the time of the steps until then and in all, without compilation and evaluations. An experiment that was not run has
a dash. The regression (scikit-learn) is for tasks with one label a text; it is fitted to the same training file.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.experiment_file import open_experiment
from gptjax.tasks.classification import Classification
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting
from gptjax.train.metrics import criterion, read_rows, seconds_at
from gptjax.train.workdir import Workdir

ROOT = Path(__file__).parents[1]


def regression(task: Classification) -> float:
    """Returns the accuracy of a logistic regression on the validation file."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    model = make_pipeline(make_union(words, characters), LogisticRegression(C=10, max_iter=1000))
    texts, labels = {}, {}
    for split in ("train", "valid"):
        examples = task.examples(split)
        texts[split] = [example.text("text") for example in examples]
        labels[split] = [task.labels_of(example)[0] for example in examples]
    model.fit(texts["train"], labels["train"])
    return float(model.score(texts["valid"], labels["valid"]))


def reached(workdir: Workdir, metric: str) -> dict[str, Any] | None:
    """Returns the best validation row of a run and the minutes that its steps took; None where there is none."""
    if not workdir.metrics.exists():
        return None
    rows = read_rows(workdir.metrics)
    valid = [row for row in rows if row["split"] == "valid"]
    if not valid:
        return None
    best = min(valid, key=lambda row: math.inf if row[metric] is None else criterion(row, metric) or 0.0)
    then, whole = seconds_at(rows, np.array([best["step"], rows[-1]["step"]], float)) / 60
    return {"step": best["step"], "value": best[metric], "minutes_until_then": float(then), "minutes": float(whole)}


def measure(name: str, runs: Path) -> dict[str, Any]:
    """Returns an experiment's line of the table."""
    cfg = open_experiment(str(ROOT / "experiments" / f"{name}.py")).read()
    metric = cfg.evaluation.metric
    tasks = build_tasks(cfg.tasks, Setting("")).tasks
    baselines = [
        regression(task) for task in tasks.values() if isinstance(task, Classification) and task.separator is None
    ]
    return {
        "experiment": name,
        "metric": metric,
        "tf_idf": baselines[0] if baselines else None,
        "run": reached(Workdir(runs / name), metric),
    }


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help="default: all of experiments/finetune_*.py"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the workdirs")
    parser.add_argument("--output", default="benchmarks/finetune.json")
    args = parser.parse_args()
    names = args.experiments or sorted(path.stem for path in (ROOT / "experiments").glob("finetune_*.py"))
    rows = []
    print("| experiment | metric | reached | at step | minutes until then | minutes in all | TF-IDF |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in names:
        rows.append(row := measure(name, args.runs))
        run, tf_idf = row["run"], row["tf_idf"]
        cells = ["-"] * 4
        if run is not None:
            times = [f"{run[key]:.0f}" for key in ("minutes_until_then", "minutes")]
            cells = [f"{run['value']:.4f}", f"{run['step']:,}", *times]
        print(f"| {name} | {row['metric']} | {' | '.join(cells)} | {'-' if tf_idf is None else f'{tf_idf:.3f}'} |")
    Path(args.output).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
