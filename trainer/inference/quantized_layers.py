"""Give a model the quantized weights of its checkpoint, so that its products read them instead of full ones."""

from pathlib import Path

from trainer.checkpoint.quantized import QuantizedFile
from trainer.model.forward_only import ColumnLinear, RowLinear
from trainer.model.gpt import GPT
from trainer.model.quantized import QuantizedWeight
from trainer.model.sharding import ShardedParameter, describe_parameters


def attach_quantized_weights(model: GPT, checkpoint: Path) -> int:
    """Replace the weights of dense linear layers and of the output layer by quantized ones, where the file has them.

    Experts, layers whose groups tensor parallelism would cut, and on a CPU those for which torch has no kernel, keep
    dequantized weights. The table of a tied embedding is kept beside the output layer's integers. The model can then
    only be used with a cache.

    Args:
        model: this rank's stage in bf16, with the checkpoint's weights.
        checkpoint: a quantized one.
    Returns:
        The memory of the quantized weights in bytes.
    """
    file = QuantizedFile(checkpoint)
    described = {id(one.parameter): one for one in describe_parameters([model])}
    num_bytes = 0

    def read(sharded: ShardedParameter) -> QuantizedWeight | None:
        tensor, device = file.read_parameter(sharded), sharded.parameter.device
        weight = None if tensor is None else QuantizedWeight(tensor, device=device)
        # A CPU takes 5 times as long to dequantize a weight in every product as to multiply by a full one.
        return weight if weight is not None and (weight.has_kernel or device.type != "cpu") else None

    for module in model.modules():
        if isinstance(module, ColumnLinear | RowLinear) and (weight := read(described[id(module.weight)])) is not None:
            module.packed = weight
            module.weight.data = module.weight.new_empty(0)
            num_bytes += weight.num_bytes
    if not model.post_process:
        return num_bytes
    output = model.output_weight()
    if (weight := read(described[id(output)])) is not None:
        model.packed_output = weight
        num_bytes += weight.num_bytes
        if not model.share_embeddings_and_output_weights:
            output.data = output.new_empty(0)
    return num_bytes
