"""Each rule about task heads, broken once; see rule_cases.py."""

_CLASSIFY = ["model=bert_tiny", "finetune.task=classify", "model.head=classification", "model.num_labels=3"]

HEAD_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["model.head=classification", "model.num_labels=3", "model.pooling=last"],
        None,
        "model.head: must be lm or mlm with finetune.task=null: pretraining predicts tokens (got classification). Use"
        " lm or mlm, or set finetune.task.",
        ["model.head=lm", "finetune.task=classify"],
    ),
    (
        ["finetune.task=tag", "model.num_labels=9"],
        None,
        "model.head: must be token_classification with finetune.task=tag (got lm). Use token_classification.",
        ["model.head=token_classification"],
    ),
    (
        [*_CLASSIFY, "model.num_labels=null"],
        None,
        "model.num_labels: must be set with model.head=classification (got null). Use the number of classes, or 1 to"
        " predict a number.",
        ["model.num_labels=2", "model.num_labels=1"],
    ),
    (
        ["finetune.task=classify", "model.head=classification", "model.num_labels=3"],
        None,
        "model.pooling: must be last or mean with model.attention_mask=causal: a first token sees nothing after it"
        " (got first). Use last, or mean.",
        ["model.pooling=last", "model.pooling=mean"],
    ),
    (
        ["model=bert_tiny", "finetune.task=qa", "model.head=question_answering", "model.pooler=tanh"],
        None,
        "model.pooler: requires model.head=classification: it transforms what was pooled from a document (got tanh)."
        " Use none.",
        ["model.pooler=none"],
    ),
    (
        ["model.pooler=gelu"],
        None,
        "model.pooler: must be none with model.head=lm: an output layer follows (got gelu). Use none.",
        ["model.pooler=none"],
    ),
    (
        [*_CLASSIFY, "parallel.context_parallel_size=2"],
        2,
        "parallel.context_parallel_size: must be 1 with model.head=classification: a whole document is needed on one"
        " rank (got 2). Use 1, and tensor or pipeline parallelism for long rows.",
        ["parallel.context_parallel_size=1"],
    ),
]
