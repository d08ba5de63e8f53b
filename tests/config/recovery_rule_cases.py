"""Each rule about recovery, broken once: see `rule_cases`."""

RECOVERY_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["recovery.loss_spike=act", "checkpoint.save_interval=0"],
        None,
        "recovery.loss_spike: requires checkpoint.save_interval of at least 1: it rolls back to a checkpoint (got"
        " act). Use warn, or set checkpoint.save_interval to 500 or another positive number.",
        ["checkpoint.save_interval=500", "recovery.loss_spike=warn"],
    ),
    (
        ["recovery.grad_norm_spike=act", "checkpoint.save_interval=5", "checkpoint.keep_last=3"],
        None,
        "checkpoint.keep_last: must be at least 4: acting on a spike rolls back 13 steps"
        " (recovery.skip_steps_before=10 + recovery.spike_patience=3), and checkpoints every"
        " checkpoint.save_interval=5 steps reach back 10 (got 3). Use 4 or more, or 0 to keep all checkpoints.",
        ["checkpoint.keep_last=4", "checkpoint.keep_last=0"],
    ),
    (
        ["recovery.replay=/nowhere/recovery.jsonl"],
        None,
        "recovery.replay: no such file or directory (got /nowhere/recovery.jsonl). Set it to the recovery.jsonl of a"
        " run, to the directory of a run that has one, or to null.",
        ["recovery.replay=null"],
    ),
]
