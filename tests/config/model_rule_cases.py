"""Each rule about windows, rotary scaling, norms and multi-latent attention, broken once; see rule_cases.py."""

_LATENT = ["model.multi_latent_attention=true", "model.num_query_groups=8", "model.kv_lora_rank=64"]

MODEL_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["model.rope_high_freq_factor=1"],
        None,
        "model.rope_high_freq_factor: must be above model.rope_low_freq_factor=1: frequencies between the two change"
        " gradually (got 1.0). Use 4, or set model.rope_low_freq_factor below 1.",
        ["model.rope_high_freq_factor=4", "model.rope_low_freq_factor=0.5"],
    ),
    (
        ["model.max_position_embeddings=128"],
        None,
        "model.seq_length: must be at most model.max_position_embeddings=128 (got 256). Use 128 or less, or set"
        " model.max_position_embeddings to 256.",
        ["model.seq_length=128", "model.max_position_embeddings=256"],
    ),
    (
        ["model.window_attn_skip_freq=[2]"],
        None,
        "model.window_attn_skip_freq: must be a list of 1 for a layer with a window and 0 for one without (got [2])."
        " Use [1] for windows in all layers, or [1, 0] for every second layer.",
        ["model.window_attn_skip_freq=[1]", "model.window_attn_skip_freq=[1,0]"],
    ),
    (
        ["model.window_size=16", "model.window_attn_skip_freq=[0]"],
        None,
        "model.window_attn_skip_freq: must give at least one layer the window of model.window_size=16 (got [0]). Use"
        " [1], or set model.window_size to null.",
        ["model.window_attn_skip_freq=[1]", "model.window_size=null"],
    ),
    (
        ["model.rotary_base_local=10000"],
        None,
        "model.rotary_base_local: requires model.window_size: it is the base of the layers with a window (got"
        " 10000.0). Use null, or set model.window_size.",
        ["model.rotary_base_local=null", "model.window_size=16"],
    ),
    (
        ["model=gpt2_124m", "model.window_size=16", "model.rotary_base_local=10000"],
        None,
        "model.rotary_base_local: requires model.position_embedding_type=rope (got 10000.0). Use null, or"
        " model.position_embedding_type=rope.",
        ["model.rotary_base_local=null", "model.position_embedding_type=rope"],
    ),
    (
        ["model.qk_layernorm_width=all"],
        None,
        "model.qk_layernorm_width: requires model.qk_layernorm=true (got all). Use head, or model.qk_layernorm=true.",
        ["model.qk_layernorm_width=head", "model.qk_layernorm=true"],
    ),
    (
        ["model.qk_layernorm=true", "model.qk_layernorm_width=all", "model.normalization=LayerNorm"],
        None,
        "model.qk_layernorm_width: requires model.normalization=RMSNorm and model.layernorm_zero_centered_gamma=false"
        " (got all). Use head, or those two.",
        ["model.qk_layernorm_width=head", "model.normalization=RMSNorm"],
    ),
    (
        [*_LATENT, "model.num_query_groups=4"],
        None,
        "model.num_query_groups: must be 8 with model.multi_latent_attention=true (got 4). Use 8, or"
        " model.multi_latent_attention=false.",
        ["model.num_query_groups=8", "model.multi_latent_attention=false"],
    ),
    (
        [*_LATENT, "model.qk_pos_emb_head_dim=33"],
        None,
        "model.qk_pos_emb_head_dim: must be even: rotary embeddings rotate pairs of channels (got 33). Use 32 or 34.",
        ["model.qk_pos_emb_head_dim=32", "model.qk_pos_emb_head_dim=34"],
    ),
    (
        [*_LATENT, "parallel.tensor_model_parallel_size=4", "model.q_lora_rank=98"],
        None,
        "parallel.tensor_model_parallel_size: must divide model.q_lora_rank=98 (got 4). Use 1, 2, 7, 14, 49 or 98.",
        ["parallel.tensor_model_parallel_size=2"],
    ),
    (
        ["model.skip_first_layernorm=true", "model.norm_placement=sum"],
        None,
        "model.skip_first_layernorm: must be false with model.norm_placement=sum: no layer normalizes its input (got"
        " true). Use false, or model.norm_placement=pre.",
        ["model.skip_first_layernorm=false", "model.norm_placement=pre"],
    ),
    (
        ["model.transformer_impl=transformer_engine", "model.window_size=16"],
        None,
        "model.window_size: not supported with model.transformer_impl=transformer_engine (got 16). Use null, or"
        " model.transformer_impl=torch.",
        ["model.window_size=null", "model.transformer_impl=torch"],
    ),
    (
        ["model.transformer_impl=transformer_engine", "model.activation=geglu"],
        None,
        "model.activation: not supported with model.transformer_impl=transformer_engine (got geglu). Use swiglu or"
        " gelu, or model.transformer_impl=torch.",
        ["model.activation=swiglu", "model.activation=gelu", "model.transformer_impl=torch"],
    ),
    (
        ["model=quickstart_moe", "model.moe_shared_expert_gate=true"],
        None,
        "model.moe_shared_expert_gate: requires model.moe_shared_expert_intermediate_size: there is no shared expert"
        " to gate (got true). Use false, or set model.moe_shared_expert_intermediate_size.",
        ["model.moe_shared_expert_gate=false", "model.moe_shared_expert_intermediate_size=64"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_enable_expert_bias=true"],
        None,
        "model.moe_router_enable_expert_bias: requires model.moe_router_score_function=sigmoid (got true). Use false,"
        " or model.moe_router_score_function=sigmoid.",
        ["model.moe_router_enable_expert_bias=false", "model.moe_router_score_function=sigmoid"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_num_groups=2"],
        None,
        "model.moe_router_group_topk: must be set with model.moe_router_num_groups (got null). Set it, or set"
        " model.moe_router_num_groups to null.",
        ["model.moe_router_group_topk=2", "model.moe_router_num_groups=null"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_num_groups=3", "model.moe_router_group_topk=1"],
        None,
        "model.moe_router_num_groups: must divide model.num_moe_experts=4 (got 3). Use 1, 2 or 4.",
        ["model.moe_router_num_groups=2"],
    ),
    (
        ["model=quickstart_moe", "model.moe_router_num_groups=1", "model.moe_router_group_topk=2"],
        None,
        "model.moe_router_group_topk: must be at most model.moe_router_num_groups=1 (got 2). Use 1 to 1.",
        ["model.moe_router_group_topk=1"],
    ),
    (
        [
            "model=quickstart_moe",
            "model.moe_router_topk=3",
            "model.moe_router_num_groups=4",
            "model.moe_router_group_topk=2",
        ],
        None,
        "model.moe_router_group_topk: must divide model.moe_router_topk=3 (got 2). Use 1 or 3.",
        ["model.moe_router_group_topk=1", "model.moe_router_group_topk=3"],
    ),
    (
        ["model.attention_mask=bidirectional"],
        None,
        "data.mask_prob: must be set with model.attention_mask=bidirectional: the model would see the tokens that it"
        " predicts (got null). Use 0.15 or 0.3, or model.attention_mask=causal.",
        ["model.attention_mask=causal"],
    ),
    (
        ["data.mask_prob=0.15", "data.mask_token_id=3"],
        None,
        "model.attention_mask: must be bidirectional with data.mask_prob=0.15: masked tokens are predicted from both"
        " sides (got causal). Use bidirectional, or data.mask_prob=null.",
        ["model.attention_mask=bidirectional", "data.mask_prob=null"],
    ),
    (
        ["model.attention_mask=bidirectional", "data.mask_prob=0.15"],
        None,
        "data.mask_token_id: must be set with data.mask_prob when tokenizer.path=null (got null). Set it to the token"
        " that hides others, or set tokenizer.path to the tokenizer.",
        ["data.mask_token_id=3"],
    ),
    (
        ["data.mask_token_id=8000"],
        None,
        "data.mask_token_id: must be at least 0 and less than model.vocab_size=8000 (got 8000). Use 0 to 7999.",
        ["data.mask_token_id=7999"],
    ),
    (
        ["data.random_token_share=0.3"],
        None,
        "data.random_token_share: must be at most 1 - data.mask_token_share = 0.2 (got 0.3). Use 0.2 or less.",
        ["data.random_token_share=0.2"],
    ),
    (
        ["data.mask_whole_words=true"],
        None,
        "data.mask_whole_words: requires tokenizer.path: the pieces of the tokenizer show where words begin (got true)."
        " Use false, or set tokenizer.path.",
        ["data.mask_whole_words=false"],
    ),
    (
        ["data.mask_word_list=words.txt"],
        None,
        "data.mask_word_list: requires data.mask_whole_words=true (got words.txt). Use null, or"
        " data.mask_whole_words=true.",
        ["data.mask_word_list=null"],
    ),
]
