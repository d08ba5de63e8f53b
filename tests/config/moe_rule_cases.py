"""Each rule about mixtures of experts, broken once; see rule_cases.py. The model has 4 experts of width 256, top 2."""

MOE_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["parallel.expert_model_parallel_size=2"],
        None,
        "parallel.expert_model_parallel_size=2 is about experts, and model.num_moe_experts is null; use 1, or set"
        " model.num_moe_experts",
        ["parallel.expert_model_parallel_size=1"],
    ),
    (
        ["model.moe_shared_expert_intermediate_size=64"],
        None,
        "model.moe_shared_expert_intermediate_size=64 is about experts, and model.num_moe_experts is null; use null, or"
        " set model.num_moe_experts",
        ["model.moe_shared_expert_intermediate_size=null", "model.num_moe_experts=4"],
    ),
    (
        ["model=quickstart_moe", "model.moe_layer_freq=[1,0,0]"],
        None,
        "model.moe_layer_freq=[1, 0, 0] has 3 entries, which do not divide model.num_layers=4; use [1] for experts in"
        " all layers, [1, 0] for every second, or one entry for each of the 4 layers",
        ["model.moe_layer_freq=[1]", "model.moe_layer_freq=[1,0]", "model.moe_layer_freq=[0,1,1,1]"],
    ),
    (
        ["model=quickstart_moe", "model.moe_layer_freq=[2]"],
        None,
        "model.moe_layer_freq=[2] is no list of 1 (a layer with experts) and 0 (a dense layer); use [1] for experts in"
        " all layers, [1, 0] for every second, or one entry for each of the 4 layers",
        ["model.moe_layer_freq=[1]"],
    ),
    (
        ["model=quickstart_moe", "model.moe_layer_freq=[0]", "model.num_layers=5"],
        None,
        "model.moe_layer_freq=[0] gives no layer experts; use [1] for experts in all layers, or one entry for each of"
        " the 5 layers",
        ["model.moe_layer_freq=[1]"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_topk=5"],
        None,
        "model.moe_router_topk=5 is more than model.num_moe_experts=4; use 1 to 4",
        ["model.moe_router_topk=4"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_topk=1"],
        None,
        "model.moe_router_pre_softmax=false takes the softmax over the one expert that model.moe_router_topk=1 chooses:"
        " its weight is always 1, and the router learns nothing; use true, or model.moe_router_topk 2 or more, or"
        " model.moe_router_score_function=sigmoid",
        ["model.moe_router_pre_softmax=true", "model.moe_router_topk=2", "model.moe_router_score_function=sigmoid"],
    ),
    (
        ["model=quickstart_moe", "model.add_bias_linear=true", "model.moe_shared_expert_intermediate_size=64"],
        None,
        "model.add_bias_linear=true gives biases to all linear layers, and the shared expert of"
        " model.moe_shared_expert_intermediate_size takes none; use false, or"
        " model.moe_shared_expert_intermediate_size null",
        ["model.add_bias_linear=false", "model.moe_shared_expert_intermediate_size=null"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "engine=megatron", "model.add_bias_linear=true"],
        None,
        "model.add_bias_linear=true gives biases to experts, whose matrices 2 processes share, and each of them would"
        " add the bias; use false, or parallel.expert_tensor_parallel_size 1",
        ["model.add_bias_linear=false", "parallel.expert_tensor_parallel_size=1"],
    ),
    (
        ["model=quickstart_moe", "engine=megatron", "parallel.expert_model_parallel_size=3"],
        None,
        "parallel.expert_model_parallel_size=3 does not divide model.num_moe_experts=4; use 1, 2 or 4",
        ["parallel.expert_model_parallel_size=2"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "model.moe_ffn_hidden_size=255"],
        None,
        "parallel.tensor_model_parallel_size=2 does not divide model.moe_ffn_hidden_size=255, the width of an expert;"
        " use parallel.expert_tensor_parallel_size 1, or model.moe_ffn_hidden_size 254 or 256",
        ["parallel.expert_tensor_parallel_size=1", "model.moe_ffn_hidden_size=256"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "model.moe_shared_expert_intermediate_size=9"],
        None,
        "parallel.tensor_model_parallel_size=2 does not divide model.moe_shared_expert_intermediate_size=9; use 1, 3 or"
        " 9",
        ["parallel=single"],
    ),
    (
        ["model=quickstart_moe", "parallel.tensor_model_parallel_size=2"],
        None,
        "parallel.sequence_parallel=false lets all parallel.tensor_model_parallel_size=2 processes send the same tokens"
        " to the experts; use true, or parallel.tensor_model_parallel_size 1",
        ["parallel.sequence_parallel=true", "parallel.tensor_model_parallel_size=1"],
    ),
    (
        ["model=quickstart_moe", "engine=megatron", "parallel=pp2", "parallel.expert_model_parallel_size=4"],
        4,
        "parallel.expert_model_parallel_size=4 * 1 process for each expert does not divide the 2 processes of a"
        " pipeline stage (parallel.tensor_model_parallel_size=1 * parallel.context_parallel_size=1 * data-parallel size"
        " 2); use 1 or 2",
        ["parallel.expert_model_parallel_size=2", 8],
    ),
    (
        ["model=quickstart_moe", "parallel.expert_model_parallel_size=2"],
        2,
        "parallel.expert_model_parallel_size=2 makes fewer ranks share an expert's gradients than share the others, and"
        " engine=deepspeed sums all alike; use 1, or engine=megatron",
        ["parallel.expert_model_parallel_size=1", "engine=megatron"],
    ),
    (
        ["model=quickstart_moe", "parallel=tp2", "parallel.expert_tensor_parallel_size=1"],
        2,
        "parallel.expert_tensor_parallel_size=1 makes other ranks share an expert's gradients than share the others,"
        " and engine=deepspeed sums all alike; use null, or engine=megatron",
        ["parallel.expert_tensor_parallel_size=null", "engine=megatron"],
    ),
    (
        [
            "model=quickstart_moe",
            "parallel.recompute_granularity=selective",
            "parallel.recompute_modules=[mlp]",
        ],
        None,
        "parallel.recompute_modules=[mlp] names mlp, and no layer has one: all have experts; use moe instead",
        ["parallel.recompute_modules=[moe]", "model.moe_layer_freq=[1,0]"],
    ),
    (
        ["parallel.recompute_granularity=selective", "parallel.recompute_modules=[moe]"],
        None,
        "parallel.recompute_modules=[moe] names moe, and no layer has one: model.num_moe_experts is null; use mlp"
        " instead",
        ["parallel.recompute_modules=[mlp]", "model.num_moe_experts=4"],
    ),
]
