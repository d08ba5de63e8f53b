"""Each rule about mixtures of experts, broken once; see rule_cases.py. The model has 4 experts of width 256, top 2."""

MOE_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["parallel.expert_model_parallel_size=2"],
        None,
        "parallel.expert_model_parallel_size: must be 1 with model.num_moe_experts=null, a dense model (got 2). Use"
        " 1, or set model.num_moe_experts.",
        ["parallel.expert_model_parallel_size=1"],
    ),
    (
        ["model.moe_shared_expert_intermediate_size=64"],
        None,
        "model.moe_shared_expert_intermediate_size: must be null with model.num_moe_experts=null, a dense model (got"
        " 64). Use null, or set model.num_moe_experts.",
        ["model.moe_shared_expert_intermediate_size=null", "model.num_moe_experts=4"],
    ),
    (
        ["model=quickstart_moe", "model.moe_layer_freq=[1,0,0]"],
        None,
        "model.moe_layer_freq: must have a length that divides model.num_layers=4 (got [1, 0, 0]). Use [1] for"
        " experts in all layers, [1, 0] for every second layer, or one entry for each of the 4 layers.",
        ["model.moe_layer_freq=[1]", "model.moe_layer_freq=[1,0]", "model.moe_layer_freq=[0,1,1,1]"],
    ),
    (
        ["model=quickstart_moe", "model.moe_layer_freq=[2]"],
        None,
        "model.moe_layer_freq: must be a list of 1 for a layer with experts and 0 for a dense layer (got [2]). Use"
        " [1] for experts in all layers, [1, 0] for every second layer, or one entry for each of the 4 layers.",
        ["model.moe_layer_freq=[1]"],
    ),
    (
        ["model=quickstart_moe", "model.moe_layer_freq=[0]", "model.num_layers=5"],
        None,
        "model.moe_layer_freq: must give experts to at least one layer (got [0]). Use [1] for experts in all layers,"
        " or one entry for each of the 5 layers.",
        ["model.moe_layer_freq=[1]"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_topk=5"],
        None,
        "model.moe_router_topk: must be at most model.num_moe_experts=4 (got 5). Use 1 to 4.",
        ["model.moe_router_topk=4"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_topk=1"],
        None,
        "model.moe_router_pre_softmax: must be true with model.moe_router_topk=1: the softmax over a single expert is"
        " always 1, and the router would not learn (got false). Use true, or set model.moe_router_topk to 2 or more,"
        " or use model.moe_router_score_function=sigmoid.",
        ["model.moe_router_pre_softmax=true", "model.moe_router_topk=2", "model.moe_router_score_function=sigmoid"],
    ),
    (
        ["model=quickstart_moe", "model.add_bias_linear=true", "model.moe_shared_expert_intermediate_size=64"],
        None,
        "model.add_bias_linear: must be false with model.moe_shared_expert_intermediate_size=64: shared experts"
        " support no biases (got true). Use false, or set model.moe_shared_expert_intermediate_size to null.",
        ["model.add_bias_linear=false", "model.moe_shared_expert_intermediate_size=null"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "engine=megatron", "model.add_bias_linear=true"],
        None,
        "model.add_bias_linear: must be false with experts that are sharded over 2 ranks: each of them would add the"
        " bias (got true). Use false, or set parallel.expert_tensor_parallel_size to 1.",
        ["model.add_bias_linear=false", "parallel.expert_tensor_parallel_size=1"],
    ),
    (
        ["model=quickstart_moe", "engine=megatron", "parallel.expert_model_parallel_size=3"],
        None,
        "parallel.expert_model_parallel_size: must divide model.num_moe_experts=4 (got 3). Use 1, 2 or 4.",
        ["parallel.expert_model_parallel_size=2"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "model.moe_ffn_hidden_size=255"],
        None,
        "parallel.tensor_model_parallel_size: must divide model.moe_ffn_hidden_size=255, the width of an expert (got"
        " 2). Set parallel.expert_tensor_parallel_size to 1, or model.moe_ffn_hidden_size to 254 or 256.",
        ["parallel.expert_tensor_parallel_size=1", "model.moe_ffn_hidden_size=256"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "model.moe_shared_expert_intermediate_size=9"],
        None,
        "parallel.tensor_model_parallel_size: must divide model.moe_shared_expert_intermediate_size=9 (got 2). Use 1,"
        " 3 or 9.",
        ["parallel=single"],
    ),
    (
        ["model=quickstart_moe", "parallel.tensor_model_parallel_size=2"],
        None,
        "parallel.sequence_parallel: must be true with experts and parallel.tensor_model_parallel_size=2: otherwise"
        " all tensor-parallel ranks send the same tokens to the experts (got false). Use true, or set"
        " parallel.tensor_model_parallel_size to 1.",
        ["parallel.sequence_parallel=true", "parallel.tensor_model_parallel_size=1"],
    ),
    (
        ["model=quickstart_moe", "engine=megatron", "parallel=pp2", "parallel.expert_model_parallel_size=4"],
        4,
        "parallel.expert_model_parallel_size: its product with the expert tensor-parallel size 1 must divide the 2"
        " processes of a pipeline stage, parallel.tensor_model_parallel_size=1 * parallel.context_parallel_size=1 *"
        " data-parallel size 2 (got 4). Use 1 or 2.",
        ["parallel.expert_model_parallel_size=2", 8],
    ),
    (
        ["model=quickstart_moe", "parallel.expert_model_parallel_size=2"],
        2,
        "parallel.expert_model_parallel_size: must be 1 with engine=deepspeed, which reduces the gradients of experts"
        " and of other weights over the same ranks (got 2). Use 1, or engine=megatron.",
        ["parallel.expert_model_parallel_size=1", "engine=megatron"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "parallel.expert_tensor_parallel_size=1"],
        2,
        "parallel.expert_tensor_parallel_size: must equal parallel.tensor_model_parallel_size=2 with"
        " engine=deepspeed, which reduces the gradients of experts and of other weights over the same ranks (got 1)."
        " Use null, or engine=megatron.",
        ["parallel.expert_tensor_parallel_size=null", "engine=megatron"],
    ),
    (
        [
            "model=quickstart_moe",
            "parallel.recompute_granularity=selective",
            "parallel.recompute_modules=[mlp]",
        ],
        None,
        "parallel.recompute_modules: must not contain mlp: all layers have experts (got [mlp]). Use moe instead.",
        ["parallel.recompute_modules=[moe]", "model.moe_layer_freq=[1,0]"],
    ),
    (
        ["parallel.recompute_granularity=selective", "parallel.recompute_modules=[moe]"],
        None,
        "parallel.recompute_modules: must not contain moe: no layer has experts with model.num_moe_experts=null (got"
        " [moe]). Use mlp instead.",
        ["parallel.recompute_modules=[mlp]", "model.num_moe_experts=4"],
    ),
]
