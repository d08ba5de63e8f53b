"""Each rule about the evaluation suite, broken once; see rule_cases.py."""

_ON = "evaluation.interval=10"
_TASK = "evaluation.tasks=[copy_en]"

EVALUATION_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        [_ON],
        None,
        "evaluation.interval: requires tokenizer.path: the tasks are texts (got 10). Set tokenizer.path to the"
        " tokenizer of the shards, or use 0.",
        ["evaluation.interval=0"],
    ),
    (
        [_ON, "tokenizer.path=LICENSE", "evaluation.tasks=[copy_fr]"],
        None,
        "evaluation.tasks[0]: is neither a task of the suite (agreement_en, agreement_zh, arithmetic_en, arithmetic_zh,"
        " cloze_en, cloze_zh, copy_en, copy_zh) nor a file (got copy_fr). Name a task of the suite, or a file of items"
        " (docs/inference/evaluation.md).",
        [_TASK],
    ),
    (
        [
            _ON,
            "tokenizer.path=LICENSE",
            "model.attention_mask=bidirectional",
            "data.mask_prob=0.15",
            "data.mask_token_id=3",
        ],
        None,
        "evaluation.interval: requires a model that is trained to predict next tokens: model.head=lm,"
        " model.attention_mask=causal, a finetune.task other than dpo and no distill.teacher (got 10). Use 0, and"
        " evaluate the checkpoints with trireme harness.",
        ["evaluation.interval=0"],
    ),
]
