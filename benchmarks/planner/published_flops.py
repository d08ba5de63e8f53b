"""Count the FLOPs of a step by the conventions of published TFLOP/s."""

from launch.plan.job import TrainingJob


def flops_of_step(job: TrainingJob, *, kind: str, convention: str) -> float | None:
    """Return the FLOPs of all devices in one optimizer step, by the convention of the published figure.

    Args:
        kind: the table's tflops_kind: model, or hardware, which includes recomputation.
        convention: the table's flops_convention.
    Returns:
        None without a convention: conventions differ by up to a third.
    """
    if not convention:
        return None
    text = f"{kind} {convention}"
    model = job.model
    share = model.share_of_moe_layers
    mlp = (1 - share) * model.dense_mlp_parameters
    experts = model.experts_per_token * model.parameters_of_expert + model.shared_mlp_parameters
    weights = model.num_layers * (model.attention_parameters + mlp + share * experts)
    weights += model.vocab_size * model.hidden_size
    per_token = 6 * weights
    if "*N*tokens" not in kind:
        # Scores and their weighted sum: all of them, or the causal half.
        seen = 0.5 if "causal attention halved" in text else 1.0
        per_token += 12 * model.num_layers * model.query_width * model.seq_length * seen
    # One more forward pass of each layer, but not of the output layer: 8 FLOPs per weight and token instead of 6.
    counts_again = "full-recompute" in text or "96BslH" in text or "8*N" in kind
    if "with ckpt" in convention:
        counts_again = float(job.layout.recomputed_share) == 1.0
    if counts_again:
        again = per_token / 3
        if "*N*tokens" not in kind:
            again -= 2 * model.vocab_size * model.hidden_size
        per_token += again
    return float(per_token * job.tokens_per_step)
