"""Each rule between fields, broken once.

A case consists of overrides of a valid configuration, the world size, the message, and the fixes that the message
proposes (overrides or world sizes), which the test applies.
"""

CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["parallel=tp2_pp2"],
        6,
        "world_size: must be a multiple of parallel.tensor_model_parallel_size=2 *"
        " parallel.pipeline_model_parallel_size=2 * parallel.context_parallel_size=1 = 4 (got 6). Start 4 or 8"
        " processes, or choose parallel sizes whose product is 1, 2, 3 or 6.",
        [4, 8],
    ),
    (
        ["parallel=tp2_pp2", "parallel.data_parallel_size=2"],
        4,
        "world_size: must equal parallel.tensor_model_parallel_size=2 * parallel.pipeline_model_parallel_size=2 *"
        " parallel.context_parallel_size=1 * parallel.data_parallel_size=2 = 8 (got 4). Start 8 processes, or set"
        " parallel.data_parallel_size to 1 or null.",
        [8, "parallel.data_parallel_size=1", "parallel.data_parallel_size=null"],
    ),
    (
        ["parallel.tensor_model_parallel_size=8"],
        None,
        "parallel.tensor_model_parallel_size: must divide model.num_query_groups=4 (got 8). Use 1, 2 or 4, or set"
        " model.num_query_groups to 8.",
        ["parallel.tensor_model_parallel_size=4", "model.num_query_groups=8"],
    ),
    (
        ["parallel.tensor_model_parallel_size=4", "model.ffn_hidden_size=514"],
        None,
        "parallel.tensor_model_parallel_size: must divide model.ffn_hidden_size=514 (got 4). Use 1 or 2, or set"
        " model.ffn_hidden_size to 512 or 516.",
        ["parallel.tensor_model_parallel_size=2", "model.ffn_hidden_size=512", "model.ffn_hidden_size=516"],
    ),
    (
        ["parallel.tensor_model_parallel_size=2", "model.make_vocab_size_divisible_by=1", "model.vocab_size=50257"],
        None,
        "parallel.tensor_model_parallel_size: must divide model.vocab_size=50257, padded to 50257 by"
        " model.make_vocab_size_divisible_by=1 (got 2). Use 1, or set model.make_vocab_size_divisible_by to 2.",
        ["parallel.tensor_model_parallel_size=1", "model.make_vocab_size_divisible_by=2"],
    ),
    (
        ["model.num_query_groups=3"],
        None,
        "model.num_query_groups: must divide model.num_attention_heads=8 (got 3). Use 1, 2, 4 or 8.",
        ["model.num_query_groups=2"],
    ),
    (
        ["model.hidden_size=260"],
        None,
        "model.hidden_size: must be a multiple of model.num_attention_heads=8 when model.kv_channels=null (got 260)."
        " Use 256 or 264, or set model.num_attention_heads to 4, 5, 10 or 13, or set model.kv_channels.",
        ["model.hidden_size=256", "model.kv_channels=32"],
    ),
    (
        ["model.kv_channels=33"],
        None,
        "model.kv_channels: must be even: rotary embeddings rotate pairs of channels (got 33). Use 32 or 34.",
        ["model.kv_channels=32", "model.kv_channels=34"],
    ),
    (
        ["model=gpt2_124m", "model.rope_scaling_factor=8"],
        None,
        "model.rope_scaling_factor: requires model.position_embedding_type=rope (got 8.0). Use null, or"
        " model.position_embedding_type=rope.",
        ["model.rope_scaling_factor=null", "model.position_embedding_type=rope"],
    ),
    (
        ["model.num_layers=8", "parallel.pipeline_model_parallel_size=3"],
        None,
        "model.num_layers: must be a multiple of parallel.pipeline_model_parallel_size=3 (got 8). Use 6 or 9, or set"
        " parallel.pipeline_model_parallel_size to 1, 2, 4 or 8, or use"
        " parallel.pipeline_model_parallel_layout=Et*3|t*3|t*2L",
        [
            "model.num_layers=6",
            "model.num_layers=9",
            "parallel.pipeline_model_parallel_size=4",
            "parallel.pipeline_model_parallel_layout=Et*3|t*3|t*2L",
        ],
    ),
    (
        ["model.num_layers=8", "parallel=pp2", "parallel.virtual_pipeline_model_parallel_size=3"],
        None,
        "model.num_layers: must be a multiple of parallel.pipeline_model_parallel_size=2 *"
        " parallel.virtual_pipeline_model_parallel_size=3 = 6 (got 8). Use 6 or 12, or set"
        " parallel.virtual_pipeline_model_parallel_size to null, or use"
        " parallel.pipeline_model_parallel_layout=Et*2|t*2|t*1|t*1|t*1|t*1L",
        [
            "model.num_layers=6",
            "model.num_layers=12",
            "parallel.virtual_pipeline_model_parallel_size=null",
            "parallel.pipeline_model_parallel_layout=Et*2|t*2|t*1|t*1|t*1|t*1L",
        ],
    ),
    (
        ["model.num_layers=8", "parallel=pp2", "parallel.account_for_loss_in_pipeline_split=true"],
        None,
        "model.num_layers: 8 + 1 (parallel.account_for_loss_in_pipeline_split) must be a multiple of"
        " parallel.pipeline_model_parallel_size=2 (got 8). Use 7 or 9, or set parallel.pipeline_model_parallel_size"
        " to 1, 3 or 9, or use parallel.pipeline_model_parallel_layout=Et*4|t*4L, with the other settings of the"
        " split set to null or false.",
        [
            "model.num_layers=7",
            "model.num_layers=9",
            "parallel.pipeline_model_parallel_size=3",
            "parallel.account_for_loss_in_pipeline_split=false",
        ],
    ),
    (
        [
            "model.num_layers=8",
            "parallel.pipeline_model_parallel_size=4",
            "parallel.num_layers_in_first_pipeline_stage=1",
        ],
        None,
        "model.num_layers: cannot be split: parallel.num_layers_in_first_pipeline_stage=1 leaves 7 layers for 3 equal"
        " stages (got 8). Choose sizes that leave a positive multiple of 3, or use"
        " parallel.pipeline_model_parallel_layout=Et*2|t*2|t*2|t*2L, with the other settings of the split set to null"
        " or false.",
        ["parallel.num_layers_in_first_pipeline_stage=2", "parallel.num_layers_in_last_pipeline_stage=3"],
    ),
    (
        [
            "model.num_layers=8",
            "parallel=pp2",
            "parallel.num_layers_in_first_pipeline_stage=3",
            "parallel.num_layers_in_last_pipeline_stage=4",
        ],
        None,
        "model.num_layers: cannot be split: parallel.num_layers_in_first_pipeline_stage=3 and"
        " parallel.num_layers_in_last_pipeline_stage=4 do not sum up to it (got 8). Choose sizes that sum up to 8, or"
        " use parallel.pipeline_model_parallel_layout=Et*4|t*4L, with the other settings of the split set to null or"
        " false.",
        ["parallel.num_layers_in_first_pipeline_stage=4", "parallel.num_layers_in_last_pipeline_stage=null"],
    ),
    (
        [
            "model.num_layers=8",
            "parallel=pp2",
            "parallel.virtual_pipeline_model_parallel_size=2",
            "parallel.num_layers_in_last_pipeline_stage=3",
        ],
        None,
        "model.num_layers: cannot be split: parallel.num_layers_in_last_pipeline_stage=3 leaves 5 layers for 1 equal"
        " stage of parallel.virtual_pipeline_model_parallel_size=2 equal chunks (got 8). Choose sizes that leave a"
        " positive multiple of 2 and are multiples of 2, or use"
        " parallel.pipeline_model_parallel_layout=Et*2|t*2|t*2|t*2L, with the other settings of the split set to null"
        " or false.",
        ["parallel.num_layers_in_last_pipeline_stage=2", "parallel.num_layers_in_last_pipeline_stage=6"],
    ),
    (
        ["parallel.num_layers_in_first_pipeline_stage=2"],
        None,
        "parallel.num_layers_in_first_pipeline_stage: requires parallel.pipeline_model_parallel_size of at least 2:"
        " it splits layers into pipeline stages (got 2). Use null, or set parallel.pipeline_model_parallel_size to 2"
        " or more.",
        ["parallel.num_layers_in_first_pipeline_stage=null", "parallel.pipeline_model_parallel_size=2"],
    ),
    (
        [
            "parallel=pp2",
            "parallel.num_layers_in_first_pipeline_stage=1",
            "parallel.account_for_loss_in_pipeline_split=true",
        ],
        None,
        "parallel.num_layers_in_first_pipeline_stage: cannot be combined with"
        " parallel.account_for_loss_in_pipeline_split=true: both set the layers of the stages (got 1). Keep either"
        " the sizes of the first and last stage, or what is accounted for, or the layout, and set the others to null"
        " or false.",
        ["parallel.account_for_loss_in_pipeline_split=false"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|xtttL"],
        None,
        "parallel.pipeline_model_parallel_layout: must consist of E (embedding), t (layer), L (loss), | and"
        " repetitions (got Et|xtttL). Use Et*2|t*2L or a similar layout.",
        ["parallel.pipeline_model_parallel_layout=Et*2|t*2L"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|tt|tL"],
        None,
        "parallel.pipeline_model_parallel_layout: must have parallel.pipeline_model_parallel_size *"
        " parallel.virtual_pipeline_model_parallel_size = 2 chunks, and has 3 (got Et|tt|tL). Use Et*2|t*2L or a"
        " similar layout.",
        ["parallel.pipeline_model_parallel_layout=Et*2|t*2L"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=tE|tttL"],
        None,
        "parallel.pipeline_model_parallel_layout: must contain E (embedding) once, at the beginning of the first"
        " chunk (got tE|tttL). Use Et*2|t*2L or a similar layout.",
        ["parallel.pipeline_model_parallel_layout=Et|tttL"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|Lttt"],
        None,
        "parallel.pipeline_model_parallel_layout: must contain L (loss) once, at the end of the last chunk (got"
        " Et|Lttt). Use Et*2|t*2L or a similar layout.",
        ["parallel.pipeline_model_parallel_layout=Et|tttL"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|ttL"],
        None,
        "parallel.pipeline_model_parallel_layout: must have model.num_layers=4 layers, and has 3 (got Et|ttL). Use"
        " Et*2|t*2L or a similar layout.",
        ["parallel.pipeline_model_parallel_layout=Et*2|t*2L", "model.num_layers=3"],
    ),
    (
        ["parallel.cp_comm_type=a2a", "parallel.context_parallel_size=4", "parallel.tensor_model_parallel_size=2"],
        None,
        "parallel.cp_comm_type: requires parallel.context_parallel_size=4 to divide the key-value heads of a rank,"
        " model.num_query_groups=4 / parallel.tensor_model_parallel_size=2 = 2 (got a2a). Use all_gather, or set"
        " parallel.context_parallel_size to 1 or 2.",
        ["parallel.cp_comm_type=all_gather", "parallel.context_parallel_size=2", "model.num_query_groups=8"],
    ),
    (
        ["parallel.recompute_granularity=full", "parallel.recompute_num_layers=1"],
        None,
        "parallel.recompute_method: must be set with parallel.recompute_granularity=full (got null). Use uniform or"
        " block, or set parallel.recompute_granularity to null.",
        ["parallel.recompute_method=uniform", "parallel.recompute_method=block", "parallel.recompute_granularity=null"],
    ),
    (
        ["parallel.recompute_modules=[mlp]"],
        None,
        "parallel.recompute_modules: requires parallel.recompute_granularity=selective (got [mlp]). Use [], or"
        " parallel.recompute_granularity=selective.",
        ["parallel.recompute_modules=[]", "parallel.recompute_granularity=selective"],
    ),
    (
        [
            "parallel.recompute_granularity=full",
            "parallel.recompute_method=uniform",
            "parallel.recompute_num_layers=3",
        ],
        None,
        "parallel.recompute_num_layers: must divide the 4 layers of a model chunk with"
        " parallel.recompute_method=uniform (got 3). Use 1, 2 or 4, or parallel.recompute_method=block.",
        ["parallel.recompute_num_layers=2", "parallel.recompute_method=block"],
    ),
    (
        [
            "parallel.recompute_granularity=full",
            "parallel.recompute_method=block",
            "parallel.recompute_num_layers=5",
        ],
        None,
        "parallel.recompute_num_layers: must be at most the 4 layers of the largest model chunk (got 5). Use 1 to 4.",
        ["parallel.recompute_num_layers=1", "parallel.recompute_num_layers=4"],
    ),
    (
        ["parallel.defer_embedding_wgrad_compute=true"],
        None,
        "parallel.defer_embedding_wgrad_compute: requires Apex's fused weight-gradient kernel"
        " (gradient_accumulation_fusion), which the layers of neither engine use (got true). Use false;"
        " parallel.virtual_pipeline_model_parallel_size also shortens the pipeline flush.",
        ["parallel.defer_embedding_wgrad_compute=false"],
    ),
    (
        ["data.reset_attention_mask=true"],
        None,
        "data.eod_token_id: must be set when tokenizer.path=null and data.reset_attention_mask,"
        " data.reset_position_ids or data.eod_mask_loss is true (got null). Set it to the token that ends documents,"
        " or set tokenizer.path to the tokenizer.",
        ["data.eod_token_id=0", "data.reset_attention_mask=false"],
    ),
    (
        ["data.eod_token_id=8000"],
        None,
        "data.eod_token_id: must be less than model.vocab_size=8000 (got 8000). Use 0 to 7999.",
        ["data.eod_token_id=0", "data.eod_token_id=7999"],
    ),
    (
        ["parallel.virtual_pipeline_model_parallel_size=2"],
        None,
        "parallel.virtual_pipeline_model_parallel_size: requires parallel.pipeline_model_parallel_size of at least 2:"
        " interleaving needs several pipeline stages (got 2). Use null, or set parallel.pipeline_model_parallel_size"
        " to 2 or more.",
        ["parallel.virtual_pipeline_model_parallel_size=null", "parallel.pipeline_model_parallel_size=2"],
    ),
    (
        [
            "parallel=pp2",
            "parallel.virtual_pipeline_model_parallel_size=2",
            "training.micro_batch_size=2",
            "training.global_batch_size=20",
        ],
        4,
        "training.global_batch_size: must give a multiple of parallel.pipeline_model_parallel_size=2 micro batches"
        " with parallel.virtual_pipeline_model_parallel_size=2, and gives 5 (got 20). Use 16 or 24, or set"
        " parallel.virtual_pipeline_model_parallel_size to null.",
        ["training.global_batch_size=16", "training.global_batch_size=24"],
    ),
    (
        ["parallel.sequence_parallel=true"],
        None,
        "parallel.sequence_parallel: requires parallel.tensor_model_parallel_size of at least 2: it shards"
        " activations over tensor-parallel ranks (got true). Use false, or set parallel.tensor_model_parallel_size to"
        " 2 or more.",
        ["parallel.sequence_parallel=false", "parallel.tensor_model_parallel_size=2"],
    ),
    (
        ["parallel=tp2", "model.seq_length=255"],
        None,
        "model.seq_length: must be a multiple of 2, to be cut into parallel.tensor_model_parallel_size=2 parts for"
        " parallel.sequence_parallel (got 255). Use 254 or 256.",
        ["model.seq_length=254", "model.seq_length=256"],
    ),
    (
        ["parallel=tp2", "parallel.context_parallel_size=3"],
        None,
        "model.seq_length: must be a multiple of 6, to be cut into 2 * parallel.context_parallel_size=3 balanced"
        " chunks and parallel.tensor_model_parallel_size=2 parts for parallel.sequence_parallel (got 256). Use 252 or"
        " 258.",
        ["model.seq_length=252", "model.seq_length=258"],
    ),
    (
        ["training.global_batch_size=18", "training.micro_batch_size=4"],
        3,
        "training.global_batch_size: must be a multiple of training.micro_batch_size=4 * data-parallel size 3 = 12"
        " (got 18). Use 12 or 24, or set training.micro_batch_size to 1, 2, 3 or 6.",
        ["training.global_batch_size=12", "training.global_batch_size=24", "training.micro_batch_size=6"],
    ),
    (
        ["training.global_batch_size=7", "parallel=dp2"],
        None,
        "training.global_batch_size: must be a multiple of training.micro_batch_size=1 * data-parallel size 2 = 2"
        " (got 7). Use 6 or 8.",
        ["training.global_batch_size=6", "training.global_batch_size=8"],
    ),
    (
        ["training.stop_after_step=1001"],
        None,
        "training.stop_after_step: must be at most training.train_iters=1000 (got 1001). Use 1 to 1000, or null to"
        " train to the end.",
        ["training.stop_after_step=1000", "training.stop_after_step=null"],
    ),
    (
        ["training.train_iters=50", "lr_schedule.warmup_steps=100"],
        None,
        "lr_schedule.warmup_steps: must be at most training.train_iters=50, where the decay ends (got 100). Use 0 to"
        " 50, or null for a tenth of the steps, or set training.train_iters to 100 or more.",
        ["lr_schedule.warmup_steps=50", "lr_schedule.warmup_steps=null", "training.train_iters=100"],
    ),
    (
        ["lr_schedule.decay_steps=2000"],
        None,
        "lr_schedule.decay_steps: must be at most training.train_iters=1000 (got 2000). Use 1000 or less. For the"
        " first part of a longer run set training.train_iters=2000 and training.stop_after_step=1000.",
        ["lr_schedule.decay_steps=1000", "training.train_iters=2000"],
    ),
    (
        ["optimizer.lr=1e-5", "lr_schedule.min_lr=3e-5"],
        None,
        "lr_schedule.min_lr: must be at most the peak, optimizer.lr=1e-05 (got 3e-05). Use 0.0 to 1e-05, null for a"
        " tenth of it, or set optimizer.lr to 3e-05 or more.",
        ["lr_schedule.min_lr=1e-05", "lr_schedule.min_lr=null", "optimizer.lr=3e-05"],
    ),
    (
        ["lr_schedule.wsd_decay_steps=5"],
        None,
        "lr_schedule.wsd_decay_steps: requires lr_schedule.style=wsd (got 5). Use null, or lr_schedule.style=wsd.",
        ["lr_schedule.wsd_decay_steps=null", "lr_schedule.style=wsd"],
    ),
    (
        ["lr_schedule=wsd", "lr_schedule.warmup_steps=100", "lr_schedule.wsd_decay_steps=901"],
        None,
        "lr_schedule.wsd_decay_steps: the decay of 901 steps must fit between lr_schedule.warmup_steps=100 and"
        " training.train_iters=1000 (got 901). Use 1 to 900.",
        ["lr_schedule.wsd_decay_steps=900", "lr_schedule.warmup_steps=null"],
    ),
    (
        ["lr_schedule=wsd", "lr_schedule.warmup_steps=100", "training.train_iters=105"],
        None,
        "lr_schedule.wsd_decay_steps: the decay of 10 steps must fit between lr_schedule.warmup_steps=100 and"
        " training.train_iters=105 (got null). Use 1 to 5.",
        ["lr_schedule.wsd_decay_steps=5"],
    ),
    (
        ["model.vocab_size=null"],
        None,
        "model.vocab_size: must be set when tokenizer.path=null (got null). Set it to the number of tokens, or set"
        " tokenizer.path to the tokenizer's model file.",
        ["model.vocab_size=50257"],
    ),
    (
        ["engine.zero_stage=4"],
        None,
        "engine.zero_stage: must be at least 0 and at most 3 (got 4). Use 3 or less.",
        ["engine.zero_stage=3", "engine.zero_stage=2"],
    ),
    (
        ["engine.zero_stage=2", "parallel=pp2"],
        None,
        "engine.zero_stage: must be 0 or 1 with parallel.pipeline_model_parallel_size=2: stages 2 and 3 reduce"
        " gradients within each backward pass, and a pipeline interleaves the passes of several micro batches (got"
        " 2). Use 0 or 1, or parallel.pipeline_model_parallel_size=1, or engine=megatron, which shards optimizer"
        " state under every layout.",
        ["engine.zero_stage=1", "parallel.pipeline_model_parallel_size=1"],
    ),
    (
        ["engine.overlap_comm=true"],
        None,
        "engine.overlap_comm: requires engine.zero_stage=2 or 3: engine.zero_stage=1 reduces gradients after the last"
        " backward pass (got true). Use false, or set engine.zero_stage to 2 or 3, or use engine=megatron, whose"
        " overlap_grad_reduce works under every layout.",
        ["engine.overlap_comm=false", "engine.zero_stage=2", "engine.zero_stage=3"],
    ),
    (
        ["engine.zero_stage=0", "engine.offload_optimizer=cpu"],
        None,
        "engine.offload_optimizer: requires engine.zero_stage=1, 2 or 3: engine.zero_stage=0 shards no optimizer"
        " state (got cpu). Use none, or set engine.zero_stage to 1, 2 or 3.",
        ["engine.offload_optimizer=none", "engine.zero_stage=1"],
    ),
    (
        ["engine.zero_stage=2", "engine.offload_optimizer=nvme", "engine.nvme_path=/scratch"],
        None,
        "engine.offload_optimizer: requires engine.zero_stage=3 (got nvme). Use none or cpu, or engine.zero_stage=3.",
        ["engine.zero_stage=3"],
    ),
    (
        ["engine.zero_stage=3", "engine.offload_optimizer=nvme"],
        None,
        "engine.nvme_path: must be set with engine.offload_optimizer=nvme (got null). Set it to a directory on a fast"
        " disk of each host, or use engine.offload_optimizer=cpu.",
        ["engine.nvme_path=/scratch", "engine.offload_optimizer=cpu"],
    ),
    (
        ["engine.nvme_path=/scratch"],
        None,
        "engine.nvme_path: requires engine.offload_optimizer=nvme (got /scratch). Use null, or"
        " engine.offload_optimizer=nvme engine.zero_stage=3.",
        ["engine.nvme_path=null"],
    ),
    (
        ["engine.zero_stage=0", "precision=bf16"],
        None,
        "engine.zero_stage: must be at least 1 with precision.params_dtype=bf16: stage 0 keeps no fp32 master weights"
        " (got 0). Use 1, or engine=megatron engine.use_distributed_optimizer=false, or precision.params_dtype=fp32.",
        ["engine.zero_stage=1", "precision.params_dtype=fp32"],
    ),
    (
        ["precision.grad_accumulation_dtype=params_dtype"],
        None,
        "precision.grad_accumulation_dtype: must be fp32 with engine=deepspeed, which accumulates gradients in fp32"
        " only (got params_dtype). Use fp32, or engine=megatron.",
        ["precision.grad_accumulation_dtype=fp32", "engine=megatron"],
    ),
    (
        ["engine=megatron", "engine.overlap_param_gather=true", "engine.use_distributed_optimizer=false"],
        None,
        "engine.overlap_param_gather: requires engine.use_distributed_optimizer=true: without it there are no sharded"
        " weights to gather (got true). Use false, or engine.use_distributed_optimizer=true.",
        ["engine.overlap_param_gather=false", "engine.use_distributed_optimizer=true"],
    ),
    (
        ["engine=megatron", "engine.overlap_param_gather=true", "engine.overlap_grad_reduce=false"],
        None,
        "engine.overlap_param_gather: requires engine.overlap_grad_reduce=true: weights are gathered in its buckets"
        " (got true). Use false, or engine.overlap_grad_reduce=true.",
        ["engine.overlap_param_gather=false", "engine.overlap_grad_reduce=true"],
    ),
    (
        ["engine=megatron", "engine.bucket_size=0"],
        None,
        "engine.bucket_size: must be at least 1 (got 0). Use 1 or more.",
        ["engine.bucket_size=null", "engine.bucket_size=1"],
    ),
    (
        ["precision=fp16", "precision.initial_loss_scale=1000"],
        None,
        "precision.initial_loss_scale: must be a power of two, so that scaling does not round (got 1000). Use 512 or"
        " 1024.",
        ["precision.initial_loss_scale=512", "precision.initial_loss_scale=1024", "precision=fp32"],
    ),
    (
        ["precision=fp16", "precision.min_loss_scale=131072"],
        None,
        "precision.min_loss_scale: must be at most precision.initial_loss_scale=65536 (got 131072). Use 65536 or"
        " less, or set precision.initial_loss_scale to 131072 or more.",
        ["precision.min_loss_scale=65536", "precision.initial_loss_scale=131072"],
    ),
    (
        ["precision=bf16", "precision.fp8=hybrid"],
        None,
        "precision.fp8: requires model.transformer_impl=transformer_engine (got hybrid). Use null, or"
        " model.transformer_impl=transformer_engine.",
        ["precision.fp8=null", "model.transformer_impl=transformer_engine"],
    ),
    (
        ["optimizer.adam_beta2=1"],
        None,
        "optimizer.adam_beta2: must be at least 0 and less than 1 (got 1.0). Use less than 1.",
        ["optimizer.adam_beta2=0.99"],
    ),
    (["optimizer.lr=0"], None, "optimizer.lr: must be more than 0 (got 0.0). Use more than 0.", ["optimizer.lr=1"]),
    (
        ["optimizer.clip_grad=inf"],
        None,
        "optimizer.clip_grad: must be finite (got inf). Use a finite number, at least 0.",
        ["optimizer.clip_grad=0"],
    ),
    (
        ["model.hidden_dropout=nan"],
        None,
        "model.hidden_dropout: must be finite (got nan). Use a finite number, at least 0 and less than 1.",
        ["model.hidden_dropout=0"],
    ),
    (
        ["training.eval_interval=-5"],
        None,
        "training.eval_interval: must be at least 0 (got -5). Use 0 or more.",
        ["training.eval_interval=0"],
    ),
    (
        ["data.train=[]"],
        None,
        "data.train: no training data configured. Set data.train=[{paths:[/path/prefix]}]",
        ["data.train=[{paths:[/path/prefix],weight:1}]"],
    ),
    (
        ["data.validation=[{paths:[/a]},{paths:[/b],weight:-1}]"],
        None,
        "data.validation[1].weight: must be a positive, finite number (got -1.0). Use a weight such as 1.0, or remove"
        " the data set.",
        ["data.validation.1.weight=1.0"],
    ),
    (
        ["data.train=[{paths:[]}]"],
        None,
        "data.train[0].paths: must contain at least one shard prefix (got []). Set data.train[0].paths to"
        " [/path/prefix]",
        ["data.train.0.paths=[/path/prefix]"],
    ),
    (
        ["data.train=[{paths:[/data/wiki.bin]}]"],
        None,
        "data.train[0].paths: must be a shard prefix, the path without .bin and .idx (got /data/wiki.bin). Use"
        " /data/wiki",
        ["data.train.0.paths=[/data/wiki]"],
    ),
    (
        ["run_name='../my run'"],
        None,
        "run_name: must be a directory name of letters, digits, '.', '_' and '-' that begins with a letter or digit"
        " (got '../my run'). Use my-run",
        ["run_name=my-run"],
    ),
    (
        ["resume=atuo"],
        None,
        "resume: must be auto, never, restart, or an existing path (got atuo). Did you mean auto? Use auto, never,"
        " restart, or the path of a checkpoint or run directory.",
        ["resume=auto", "resume=never", "resume=."],
    ),
    (
        ["pretrained_checkpoint=.", "resume=."],
        None,
        "pretrained_checkpoint: cannot be combined with resume=., which takes weights and step from there (got .)."
        " Remove one of them.",
        ["resume=auto", "pretrained_checkpoint=null"],
    ),
    (
        ["tokenizer.path=/no/such/file.model"],
        None,
        "tokenizer.path: no such file (got /no/such/file.model). Set it to the .model or tokenizer.json that the"
        " shards were made with, or use null and set model.vocab_size.",
        ["tokenizer.path=null"],
    ),
    (
        ["output_dir=/dev/null"],
        None,
        "output_dir: cannot create the run directory /dev/null/default: /dev/null is a file (got /dev/null). Set it"
        " to a directory that you can write to.",
        ["output_dir=/tmp"],
    ),
]
