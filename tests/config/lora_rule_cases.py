"""Each rule about adapters, broken once; see rule_cases.py."""

_DENSE = "[linear_qkv,linear_proj,linear_fc1,linear_fc2]"
_MOE = ["lora.rank=4", "model.num_moe_experts=8"]
_SPLIT = ["parallel.tensor_model_parallel_size=4", "parallel.sequence_parallel=true", "engine=megatron"]
_LATENT = [
    "model.multi_latent_attention=true",
    "model.num_query_groups=8",
    "model.kv_lora_rank=32",
    "model.qk_head_dim=16",
    "model.qk_pos_emb_head_dim=16",
    "model.v_head_dim=16",
]

LORA_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["lora.rank=4", "lora.target_modules=[linear_qkv,linear_q_proj]"],
        None,
        "lora.target_modules: names layers that the model does not have: linear_q_proj (got linear_qkv, linear_q_proj)."
        f" Choose from {_DENSE}.",
        [f"lora.target_modules={_DENSE}", "lora.rank=0"],
    ),
    (
        ["lora.rank=4", "lora.target_modules=[]"],
        None,
        f"lora.target_modules: must name at least one layer with lora.rank=4 (got []). Choose from {_DENSE}.",
        ["lora.target_modules=[linear_proj]"],
    ),
    (
        [*_MOE, "lora.target_modules=[linear_fc1]"],
        None,
        "lora.target_modules: names layers that the model does not have: linear_fc1 (got linear_fc1). Choose from"
        " [linear_qkv,linear_proj,experts.linear_fc1,experts.linear_fc2].",
        ["lora.target_modules=[experts.linear_fc1]", "model.moe_shared_expert_intermediate_size=64"],
    ),
    (
        ["lora.rank=4", *_LATENT, "lora.target_modules=[linear_qkv]"],
        None,
        "lora.target_modules: names layers that the model does not have: linear_qkv (got linear_qkv). Choose from"
        " [linear_q_proj,linear_kv_down_proj,linear_kv_up_proj,linear_proj,linear_fc1,linear_fc2].",
        ["lora.target_modules=[linear_q_proj]"],
    ),
    (
        ["lora.rank=4", "model.transformer_impl=transformer_engine"],
        None,
        "model.transformer_impl: must be torch with lora.rank=4: adapters are layers of torch kernels (got"
        " transformer_engine). Use torch, or lora.rank=0.",
        ["model.transformer_impl=torch", "lora.rank=0"],
    ),
    (
        [*_MOE, *_SPLIT, "lora.target_modules=[experts.linear_fc2]", "lora.dropout=0.1"],
        None,
        "lora.dropout: must be 0 for adapters of experts that 4 tensor-parallel ranks share (got 0.1). Use 0, or"
        " parallel.expert_tensor_parallel_size=1.",
        ["lora.dropout=0", "parallel.expert_tensor_parallel_size=1"],
    ),
    (
        [*_MOE, *_SPLIT, "lora.target_modules=[experts.linear_fc2]", "parallel.expert_tensor_parallel_size=2"],
        None,
        "parallel.expert_tensor_parallel_size: must be 1 or parallel.tensor_model_parallel_size=4 with adapters of"
        " experts (got 2). Use 1 or 4.",
        ["parallel.expert_tensor_parallel_size=1", "parallel.expert_tensor_parallel_size=4"],
    ),
    (
        [
            "lora.rank=4",
            "model.num_layers=4",
            "parallel.pipeline_model_parallel_size=2",
            "parallel.pipeline_model_parallel_layout=E|ttttL",
        ],
        None,
        "parallel.pipeline_model_parallel_size: leaves pipeline stage 0 without layers, and so without adapters to"
        " train (got 2). Give every stage at least one layer, or use fewer stages.",
        ["parallel.pipeline_model_parallel_layout=Et|tttL", "lora.rank=0"],
    ),
]
