"""Rules about watching over a run, each broken once; see rule_cases."""

HEALTH_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["health.replica_check_interval=100", "engine.zero_stage=3"],
        None,
        "health.replica_check_interval=100 compares copies of weights, and engine.zero_stage=3 leaves none; use 0, or"
        " engine.zero_stage 0, 1 or 2",
        ["health.replica_check_interval=0", "engine.zero_stage=2"],
    ),
    (
        ["health.replica_check_interval=100", "engine=megatron", "engine.overlap_param_gather=true"],
        None,
        "health.replica_check_interval=100 compares copies of weights after a step, and"
        " engine.overlap_param_gather=true gathers them during the next one; use 0, or"
        " engine.overlap_param_gather=false",
        ["health.replica_check_interval=0", "engine.overlap_param_gather=false"],
    ),
]
