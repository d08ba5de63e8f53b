"""Each rule about fine-tuning, broken once; see rule_cases.py."""

_CLASSIFY = ["finetune.task=classify", "model.head=classification", "model.num_labels=3", "model.pooling=last"]
_VALIDATION = "data.validation=[{paths:[x]}]"

FINETUNE_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["finetune.num_epochs=2"],
        None,
        "finetune.num_epochs: requires finetune.task (got 2.0). Set finetune.task to sft, classify, tag, qa or dpo, or"
        " remove this setting.",
        ["finetune.task=sft"],
    ),
    (
        [*_CLASSIFY, "model.attention_mask=bidirectional", "data.mask_prob=0.15", "data.mask_token_id=3"],
        None,
        "data.mask_prob: must be null with finetune.task=classify: examples have labels of their own (got 0.15). Use"
        " null, or finetune.task=null.",
        ["data.mask_prob=null"],
    ),
    (
        ["finetune.task=sft", "model.attention_mask=bidirectional"],
        None,
        "finetune.task: requires model.attention_mask=causal: the model would see the tokens that it predicts (got"
        " sft). Use classify, tag or qa with this model, or a causal one.",
        ["model.attention_mask=causal"],
    ),
    (
        ["finetune.task=sft", "finetune.metric=accuracy", _VALIDATION],
        None,
        "finetune.metric: is not a score of finetune.task=sft (got accuracy). Use loss.",
        ["finetune.metric=loss"],
    ),
    (
        [*_CLASSIFY, "finetune.metric=accuracy"],
        None,
        "finetune.metric: requires validations: data.validation and training.eval_interval (got accuracy). Set"
        " data.validation to held-out examples and training.eval_interval to a number of steps.",
        [_VALIDATION],
    ),
    (
        ["finetune.early_stopping_patience=3"],
        None,
        "finetune.early_stopping_patience: requires validations: data.validation and training.eval_interval (got 3)."
        " Set data.validation to held-out examples and training.eval_interval to a number of steps.",
        [_VALIDATION],
    ),
    (
        [*_CLASSIFY, "finetune.class_weights=[1,2]"],
        None,
        "finetune.class_weights: must have a weight for each of the 3 classes (got [1, 2]). Give 3 numbers.",
        ["finetune.class_weights=[1,2,3]"],
    ),
    (
        [*_CLASSIFY, "finetune.class_weights=[1,0,3]"],
        None,
        "finetune.class_weights: must be more than 0 each (got [1, 0, 3]). Use positive numbers, small ones for classes"
        " that should hardly count.",
        ["finetune.class_weights=[1,2,3]"],
    ),
    (
        ["finetune.task=sft", "finetune.class_weights=[1,2]"],
        None,
        "finetune.class_weights: has no effect with finetune.task=sft, which has no classes (got [1, 2]). Remove it.",
        ["finetune.class_weights=[]"],
    ),
    (
        ["finetune.task=dpo", "pretrained_checkpoint=x", "parallel.context_parallel_size=2"],
        None,
        "parallel.context_parallel_size: must be 1 with finetune.task=dpo: the log-probability of a whole answer is"
        " needed on one rank (got 2). Use 1, and tensor or pipeline parallelism for long rows.",
        ["parallel.context_parallel_size=1"],
    ),
    (
        ["finetune.task=dpo"],
        None,
        "pretrained_checkpoint: must be set with finetune.task=dpo: the weights that a run starts from are its"
        " reference (got null). Set it to the model that is to be tuned, best one that sft has taught to answer.",
        ["pretrained_checkpoint=x"],
    ),
    (
        ["finetune.task=sft", "model.transformer_impl=transformer_engine"],
        None,
        "finetune.task: not supported with model.transformer_impl=transformer_engine: a row has several documents (got"
        " sft). Use model.transformer_impl=torch.",
        ["model.transformer_impl=torch"],
    ),
    (
        [*_CLASSIFY, "distill.teacher=x"],
        None,
        "distill.teacher: not supported with finetune.task=classify: a teacher gives probabilities of tokens (got x)."
        " Use null, or finetune.task=sft.",
        ["distill.teacher=null"],
    ),
    (
        ["distill.teacher=x", "model.transformer_impl=transformer_engine"],
        None,
        "distill.teacher: not supported with model.transformer_impl=transformer_engine (got x). Use"
        " model.transformer_impl=torch.",
        ["model.transformer_impl=torch"],
    ),
]
