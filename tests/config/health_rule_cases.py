"""Rules about health monitoring, each broken once; see rule_cases."""

HEALTH_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["health.replica_check_interval=100", "engine.zero_stage=3"],
        None,
        "health.replica_check_interval: must be 0 with engine.zero_stage=3, which keeps no replicas of weights to"
        " compare (got 100). Use 0, or set engine.zero_stage to 0, 1 or 2.",
        ["health.replica_check_interval=0", "engine.zero_stage=2"],
    ),
    (
        ["health.replica_check_interval=100", "engine=megatron", "engine.overlap_param_gather=true"],
        None,
        "health.replica_check_interval: must be 0 with engine.overlap_param_gather=true: replicas are compared after"
        " a step, and weights are gathered during the next one (got 100). Use 0, or"
        " engine.overlap_param_gather=false.",
        ["health.replica_check_interval=0", "engine.overlap_param_gather=false"],
    ),
]
