"""Questions that a model was never trained on: LAMBADA, HellaSwag, ARC, PIQA ..; MMLU with five shots.

The prompts are those of the EleutherAI harness. Scores any workdir; model and tokenizer are the workdir's own.

Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/zero_shot.py --mode=evaluate --workdir=runs/smollm2
          (--config.evaluation.num_examples=100 takes the first so many of each)
Hardware: any
Expect:   50 questions of each in 18 minutes on one core: ARC easy 0.54, HellaSwag 0.42, LAMBADA 0.32, others by chance
"""

from experiments import base, corpora


def get_config():
    def multiple_choice(name, **options):
        return {"name": "multiple_choice", "valid": corpora.examples(f"eval/{name}"), **options}

    def question(name):
        return multiple_choice(f"{name}-dev.jsonl", template="{query}\nAnswer:")

    def contexts(name):
        return multiple_choice(f"{name}-dev.jsonl", query=("context_options",), choices=None)

    config = base.get_config()
    config.tasks = {
        "lambada": multiple_choice("lambada-dev.jsonl.gz", query=("context",), choices=None, answer=""),
        "hellaswag": multiple_choice("hellaswag-dev.jsonl", query=("ctx",), choices="endings", answer="label"),
        "arc_easy": question("arc-easy"),
        "arc_challenge": question("arc-challenge"),
        "piqa": question("piqa"),
        "openbookqa": multiple_choice("openbookqa-dev.jsonl"),
        "copa": multiple_choice("copa-dev.jsonl"),
        "boolq": multiple_choice("boolq-dev.jsonl"),
        "winograd": contexts("winograd"),
        "winogrande": contexts("winogrande"),
        "mmlu": multiple_choice(
            "mmlu-sample.jsonl",
            train=corpora.examples("eval/mmlu-dev.jsonl"),
            query=("question",),
            answer="answer",
            group="subject",
            shots=5,
            letters=True,
            template="{query}\n{choices}\nAnswer:",
            preamble="The following are multiple choice questions (with answers) about {group}.\n\n",
        ),
    }
    config.data.batch_size = 2
    config.evaluation.seq_len = 2048
    return config
