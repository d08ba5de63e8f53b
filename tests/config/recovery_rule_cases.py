"""Each rule about recovery, broken once: see `rule_cases`."""

RECOVERY_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["recovery.loss_spike=act", "checkpoint.save_interval=0"],
        None,
        "recovery.loss_spike=act goes back to a checkpoint, and checkpoint.save_interval=0 saves none on the way; set"
        " checkpoint.save_interval 500 or another positive number, or use warn",
        ["checkpoint.save_interval=500", "recovery.loss_spike=warn"],
    ),
    (
        ["recovery.grad_norm_spike=act", "checkpoint.save_interval=5", "checkpoint.keep_last=3"],
        None,
        "checkpoint.keep_last=3 keeps 10 steps of checkpoints every checkpoint.save_interval=5 steps, and acting on a"
        " spike goes back 13 (recovery.skip_steps_before=10 + recovery.spike_patience=3); use checkpoint.keep_last 4"
        " or more, or 0, which keeps all",
        ["checkpoint.keep_last=4", "checkpoint.keep_last=0"],
    ),
    (
        ["recovery.replay=/nowhere/recovery.jsonl"],
        None,
        "recovery.replay=/nowhere/recovery.jsonl does not exist; give the recovery.jsonl of a run, or the directory of"
        " a run that has one, or null",
        ["recovery.replay=null"],
    ),
]
