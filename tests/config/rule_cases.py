"""Each rule between fields, broken once.

A case is: overrides of a configuration that is right, the world size, the message, and what the message proposes
(overrides or world sizes), which the test tries.
"""

CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["parallel=tp2_pp2"],
        6,
        "world_size=6 is no multiple of parallel.tensor_model_parallel_size=2 * parallel.pipeline_model_parallel_size=2"
        " * parallel.context_parallel_size=1 = 4; start 4 or 8 processes, or choose sizes whose product is 1, 2, 3 or"
        " 6",
        [4, 8],
    ),
    (
        ["parallel=tp2_pp2", "parallel.data_parallel_size=2"],
        4,
        "world_size=4 is not parallel.tensor_model_parallel_size=2 * parallel.pipeline_model_parallel_size=2 *"
        " parallel.context_parallel_size=1 * parallel.data_parallel_size=2 = 8; start 8 processes, or"
        " parallel.data_parallel_size 1 or null",
        [8, "parallel.data_parallel_size=1", "parallel.data_parallel_size=null"],
    ),
    (
        ["parallel.tensor_model_parallel_size=8"],
        None,
        "parallel.tensor_model_parallel_size=8 does not divide model.num_query_groups=4; use 1, 2 or 4, or"
        " model.num_query_groups 8",
        ["parallel.tensor_model_parallel_size=4", "model.num_query_groups=8"],
    ),
    (
        ["parallel.tensor_model_parallel_size=4", "model.ffn_hidden_size=514"],
        None,
        "parallel.tensor_model_parallel_size=4 does not divide model.ffn_hidden_size=514; use 1 or 2, or"
        " model.ffn_hidden_size 512 or 516",
        ["parallel.tensor_model_parallel_size=2", "model.ffn_hidden_size=512", "model.ffn_hidden_size=516"],
    ),
    (
        ["parallel.tensor_model_parallel_size=2", "model.make_vocab_size_divisible_by=1", "model.vocab_size=50257"],
        None,
        "parallel.tensor_model_parallel_size=2 does not divide model.vocab_size=50257 padded to 50257 by"
        " model.make_vocab_size_divisible_by=1; use 1, or model.make_vocab_size_divisible_by 2",
        ["parallel.tensor_model_parallel_size=1", "model.make_vocab_size_divisible_by=2"],
    ),
    (
        ["model.num_query_groups=3"],
        None,
        "model.num_query_groups=3 does not divide model.num_attention_heads=8; use 1, 2, 4 or 8",
        ["model.num_query_groups=2"],
    ),
    (
        ["model.hidden_size=260"],
        None,
        "model.hidden_size=260 is no multiple of model.num_attention_heads=8 while model.kv_channels is null; use"
        " model.hidden_size 256 or 264, or model.num_attention_heads 4, 5, 10 or 13, or set model.kv_channels",
        ["model.hidden_size=256", "model.kv_channels=32"],
    ),
    (
        ["model.kv_channels=33"],
        None,
        "model.kv_channels=33 gives heads of 33 channels (model.kv_channels), and rotary embeddings turn pairs of"
        " channels; use 32 or 34",
        ["model.kv_channels=32", "model.kv_channels=34"],
    ),
    (
        ["model=gpt2_124m", "model.rope_scaling_factor=8"],
        None,
        "model.rope_scaling_factor=8.0 has nothing to scale with model.position_embedding_type=learned_absolute; use"
        " null, or model.position_embedding_type=rope",
        ["model.rope_scaling_factor=null", "model.position_embedding_type=rope"],
    ),
    (
        ["model.num_layers=8", "parallel.pipeline_model_parallel_size=3"],
        None,
        "model.num_layers=8 is no multiple of parallel.pipeline_model_parallel_size=3, so stages would differ; use"
        " model.num_layers 6 or 9, or parallel.pipeline_model_parallel_size 1, 2, 4 or 8, or"
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
        "model.num_layers=8 is no multiple of parallel.pipeline_model_parallel_size=2 *"
        " parallel.virtual_pipeline_model_parallel_size=3 = 6, so stages would differ; use model.num_layers 6 or 12, or"
        " parallel.virtual_pipeline_model_parallel_size null, or"
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
        "model.num_layers=8 and parallel.account_for_loss_in_pipeline_split, 9 together, is no multiple of"
        " parallel.pipeline_model_parallel_size=2, so stages would differ; use model.num_layers 7 or 9, or"
        " parallel.pipeline_model_parallel_size 1, 3 or 9, or parallel.pipeline_model_parallel_layout=Et*4|t*4L with"
        " the other settings of the split at null or false",
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
        "model.num_layers=8 with parallel.num_layers_in_first_pipeline_stage=1 does not fit: it leaves 7 layers for"
        " 3 equal stages; choose sizes that leave a positive multiple of 3, or"
        " parallel.pipeline_model_parallel_layout=Et*2|t*2|t*2|t*2L with the other settings of the split at null or"
        " false",
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
        "model.num_layers=8 with parallel.num_layers_in_first_pipeline_stage=3 and"
        " parallel.num_layers_in_last_pipeline_stage=4 does not fit: it leaves 1 layer for 0 equal stages; choose sizes"
        " that sum up to 8, or parallel.pipeline_model_parallel_layout=Et*4|t*4L with the other settings of the split"
        " at null or false",
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
        "model.num_layers=8 with parallel.num_layers_in_last_pipeline_stage=3 does not fit: it leaves 5 layers for"
        " 1 equal stage of 2 equal chunks (parallel.virtual_pipeline_model_parallel_size); choose sizes that leave a"
        " positive multiple of 2 and are multiples of 2, or parallel.pipeline_model_parallel_layout=Et*2|t*2|t*2|t*2L"
        " with the other settings of the split at null or false",
        ["parallel.num_layers_in_last_pipeline_stage=2", "parallel.num_layers_in_last_pipeline_stage=6"],
    ),
    (
        ["parallel.num_layers_in_first_pipeline_stage=2"],
        None,
        "parallel.num_layers_in_first_pipeline_stage=2 cuts layers into pipeline stages, and"
        " parallel.pipeline_model_parallel_size=1; use null, or parallel.pipeline_model_parallel_size 2 or more",
        ["parallel.num_layers_in_first_pipeline_stage=null", "parallel.pipeline_model_parallel_size=2"],
    ),
    (
        [
            "parallel=pp2",
            "parallel.num_layers_in_first_pipeline_stage=1",
            "parallel.account_for_loss_in_pipeline_split=true",
        ],
        None,
        "parallel.num_layers_in_first_pipeline_stage=1 names the layers of the stages, and so does"
        " parallel.account_for_loss_in_pipeline_split=true; keep the sizes of the first and last stage, or what is"
        " accounted for, or the layout, and set the others to null or false",
        ["parallel.account_for_loss_in_pipeline_split=false"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|xtttL"],
        None,
        "parallel.pipeline_model_parallel_layout=Et|xtttL holds more than E (embedding), t (layer), L (loss), | and"
        " repetitions; use Et*2|t*2L or the like",
        ["parallel.pipeline_model_parallel_layout=Et*2|t*2L"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|tt|tL"],
        None,
        "parallel.pipeline_model_parallel_layout=Et|tt|tL has 3 chunks, and parallel.pipeline_model_parallel_size *"
        " parallel.virtual_pipeline_model_parallel_size is 2; use Et*2|t*2L or the like",
        ["parallel.pipeline_model_parallel_layout=Et*2|t*2L"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=tE|tttL"],
        None,
        "parallel.pipeline_model_parallel_layout=tE|tttL has its one E (embedding) not at the beginning of the first"
        " chunk; use Et*2|t*2L or the like",
        ["parallel.pipeline_model_parallel_layout=Et|tttL"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|Lttt"],
        None,
        "parallel.pipeline_model_parallel_layout=Et|Lttt has its one L (loss) not at the end of the last chunk; use"
        " Et*2|t*2L or the like",
        ["parallel.pipeline_model_parallel_layout=Et|tttL"],
    ),
    (
        ["parallel=pp2", "parallel.pipeline_model_parallel_layout=Et|ttL"],
        None,
        "parallel.pipeline_model_parallel_layout=Et|ttL has 3 layers, and model.num_layers is 4; use Et*2|t*2L or the"
        " like",
        ["parallel.pipeline_model_parallel_layout=Et*2|t*2L", "model.num_layers=3"],
    ),
    (
        ["parallel.cp_comm_type=a2a", "parallel.context_parallel_size=4", "parallel.tensor_model_parallel_size=2"],
        None,
        "parallel.cp_comm_type=a2a exchanges whole heads, and parallel.context_parallel_size=4 does not divide the 2"
        " key-value heads of a process (model.num_query_groups=4 / parallel.tensor_model_parallel_size=2); use"
        " all_gather, or parallel.context_parallel_size 1 or 2",
        ["parallel.cp_comm_type=all_gather", "parallel.context_parallel_size=2", "model.num_query_groups=8"],
    ),
    (
        ["parallel.recompute_granularity=full", "parallel.recompute_num_layers=1"],
        None,
        "parallel.recompute_method=null leaves open what parallel.recompute_granularity=full recomputes; use uniform or"
        " block, or parallel.recompute_granularity null",
        ["parallel.recompute_method=uniform", "parallel.recompute_method=block", "parallel.recompute_granularity=null"],
    ),
    (
        ["parallel.recompute_modules=[mlp]"],
        None,
        "parallel.recompute_modules=[mlp] means nothing with parallel.recompute_granularity=null; use [], or"
        " parallel.recompute_granularity selective",
        ["parallel.recompute_modules=[]", "parallel.recompute_granularity=selective"],
    ),
    (
        [
            "parallel.recompute_granularity=full",
            "parallel.recompute_method=uniform",
            "parallel.recompute_num_layers=3",
        ],
        None,
        "parallel.recompute_num_layers=3 does not divide the 4 layers of a model chunk, and"
        " parallel.recompute_method=uniform cuts them into units; use 1, 2 or 4, or parallel.recompute_method block",
        ["parallel.recompute_num_layers=2", "parallel.recompute_method=block"],
    ),
    (
        [
            "parallel.recompute_granularity=full",
            "parallel.recompute_method=block",
            "parallel.recompute_num_layers=5",
        ],
        None,
        "parallel.recompute_num_layers=5 is more than the 4 layers of the largest model chunk; use 1 to 4",
        ["parallel.recompute_num_layers=1", "parallel.recompute_num_layers=4"],
    ),
    (
        ["parallel.defer_embedding_wgrad_compute=true"],
        None,
        "parallel.defer_embedding_wgrad_compute=true needs Apex's fused kernel that adds weight gradients to main_grad"
        " (gradient_accumulation_fusion), which neither engine's layers use; use false; a shorter pipeline flush also"
        " comes from parallel.virtual_pipeline_model_parallel_size",
        ["parallel.defer_embedding_wgrad_compute=false"],
    ),
    (
        ["data.reset_attention_mask=true"],
        None,
        "data.eod_token_id=null leaves open where documents end while tokenizer.path is null, and"
        " data.reset_attention_mask, data.reset_position_ids or data.eod_mask_loss asks for it; set data.eod_token_id"
        " to the token that ends documents, or tokenizer.path to the tokenizer",
        ["data.eod_token_id=0", "data.reset_attention_mask=false"],
    ),
    (
        ["data.eod_token_id=8000"],
        None,
        "data.eod_token_id=8000 is no token of the model.vocab_size=8000 tokens; use 0 to 7999",
        ["data.eod_token_id=0", "data.eod_token_id=7999"],
    ),
    (
        ["parallel.virtual_pipeline_model_parallel_size=2"],
        None,
        "parallel.virtual_pipeline_model_parallel_size=2 interleaves the stages of a pipeline, and"
        " parallel.pipeline_model_parallel_size=1; use null, or parallel.pipeline_model_parallel_size 2 or more",
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
        "training.global_batch_size=20 gives 5 micro batches, no multiple of parallel.pipeline_model_parallel_size=2,"
        " which parallel.virtual_pipeline_model_parallel_size=2 needs; use training.global_batch_size 16 or 24, or"
        " parallel.virtual_pipeline_model_parallel_size null",
        ["training.global_batch_size=16", "training.global_batch_size=24"],
    ),
    (
        ["parallel.sequence_parallel=true"],
        None,
        "parallel.sequence_parallel=true shards activations over tensor-parallel processes, and"
        " parallel.tensor_model_parallel_size=1; use false, or parallel.tensor_model_parallel_size 2 or more",
        ["parallel.sequence_parallel=false", "parallel.tensor_model_parallel_size=2"],
    ),
    (
        ["parallel=tp2", "model.seq_length=255"],
        None,
        "model.seq_length=255 cannot be cut into equal parts for parallel.tensor_model_parallel_size=2"
        " (parallel.sequence_parallel): it is no multiple of 2; use 254 or 256",
        ["model.seq_length=254", "model.seq_length=256"],
    ),
    (
        ["parallel=tp2", "parallel.context_parallel_size=3"],
        None,
        "model.seq_length=256 cannot be cut into equal parts for 2 * parallel.context_parallel_size=3 (two balanced"
        " chunks each) and parallel.tensor_model_parallel_size=2 (parallel.sequence_parallel): it is no multiple of 6;"
        " use 252 or 258",
        ["model.seq_length=252", "model.seq_length=258"],
    ),
    (
        ["training.global_batch_size=18", "training.micro_batch_size=4"],
        3,
        "training.global_batch_size=18 is no multiple of training.micro_batch_size=4 * data-parallel size 3 = 12; use"
        " training.global_batch_size 12 or 24, or training.micro_batch_size 1, 2, 3 or 6",
        ["training.global_batch_size=12", "training.global_batch_size=24", "training.micro_batch_size=6"],
    ),
    (
        ["training.global_batch_size=7", "parallel=dp2"],
        None,
        "training.global_batch_size=7 is no multiple of training.micro_batch_size=1 * data-parallel size 2 = 2; use"
        " training.global_batch_size 6 or 8",
        ["training.global_batch_size=6", "training.global_batch_size=8"],
    ),
    (
        ["training.stop_after_step=1001"],
        None,
        "training.stop_after_step=1001 is after the end of the run, training.train_iters=1000; use 1 to 1000, or null"
        " to run to the end",
        ["training.stop_after_step=1000", "training.stop_after_step=null"],
    ),
    (
        ["training.train_iters=50", "lr_schedule.warmup_steps=100"],
        None,
        "lr_schedule.warmup_steps=100 is after the end of the decay, training.train_iters=50; use"
        " lr_schedule.warmup_steps 0 to 50, null for a tenth of the steps, or training.train_iters 100 or more",
        ["lr_schedule.warmup_steps=50", "lr_schedule.warmup_steps=null", "training.train_iters=100"],
    ),
    (
        ["lr_schedule.decay_steps=2000"],
        None,
        "lr_schedule.decay_steps=2000 is after the end of the run, training.train_iters=1000; use 1000 or less; for the"
        " first part of a longer run set training.train_iters=2000 and training.stop_after_step=1000",
        ["lr_schedule.decay_steps=1000", "training.train_iters=2000"],
    ),
    (
        ["optimizer.lr=1e-5"],
        None,
        "lr_schedule.min_lr=3e-05 is above the peak, optimizer.lr=1e-05; use 0.0 to 1e-05, or optimizer.lr 3e-05 or"
        " more",
        ["lr_schedule.min_lr=1e-05", "optimizer.lr=3e-05"],
    ),
    (
        ["lr_schedule.wsd_decay_steps=5"],
        None,
        "lr_schedule.wsd_decay_steps=5 means nothing with lr_schedule.style=cosine; use null, or lr_schedule.style=wsd",
        ["lr_schedule.wsd_decay_steps=null", "lr_schedule.style=wsd"],
    ),
    (
        ["lr_schedule=wsd", "lr_schedule.warmup_steps=100", "lr_schedule.wsd_decay_steps=901"],
        None,
        "lr_schedule.wsd_decay_steps=901 (901 steps of decay) does not fit between lr_schedule.warmup_steps=100 and"
        " training.train_iters=1000; use lr_schedule.wsd_decay_steps 1 to 900",
        ["lr_schedule.wsd_decay_steps=900", "lr_schedule.warmup_steps=null"],
    ),
    (
        ["lr_schedule=wsd", "lr_schedule.warmup_steps=100", "training.train_iters=105"],
        None,
        "lr_schedule.wsd_decay_steps=null (10 steps of decay) does not fit between lr_schedule.warmup_steps=100 and"
        " training.train_iters=105; use lr_schedule.wsd_decay_steps 1 to 5",
        ["lr_schedule.wsd_decay_steps=5"],
    ),
    (
        ["model.vocab_size=null"],
        None,
        "model.vocab_size=null leaves the vocabulary unknown while tokenizer.path is null; set tokenizer.path to the"
        " tokenizer's model file, or model.vocab_size to a number of tokens",
        ["model.vocab_size=50257"],
    ),
    (
        ["engine.zero_stage=4"],
        None,
        "engine.zero_stage=4 is not at least 0 and at most 3; use 3 or less",
        ["engine.zero_stage=3", "engine.zero_stage=2"],
    ),
    (
        ["engine.zero_stage=2", "parallel=pp2"],
        None,
        "engine.zero_stage=2 reduces gradients within each backward pass, and under"
        " parallel.pipeline_model_parallel_size=2 the passes of several micro batches interleave; use 0 or 1, or"
        " engine=megatron, which shards optimizer state under every layout, or"
        " parallel.pipeline_model_parallel_size=1",
        ["engine.zero_stage=1", "parallel.pipeline_model_parallel_size=1"],
    ),
    (
        ["engine.overlap_comm=true"],
        None,
        "engine.overlap_comm=true overlaps reduction with the backward pass, and engine.zero_stage=1 reduces after the"
        " last one; use false, or engine.zero_stage=2 or 3, or engine=megatron, whose overlap_grad_reduce does it under"
        " every layout",
        ["engine.overlap_comm=false", "engine.zero_stage=2", "engine.zero_stage=3"],
    ),
    (
        ["engine.zero_stage=0", "engine.offload_optimizer=cpu"],
        None,
        "engine.offload_optimizer=cpu moves what is sharded, and engine.zero_stage=0 shards nothing; use none, or"
        " engine.zero_stage=1, 2 or 3",
        ["engine.offload_optimizer=none", "engine.zero_stage=1"],
    ),
    (
        ["engine.zero_stage=2", "engine.offload_optimizer=nvme", "engine.nvme_path=/scratch"],
        None,
        "engine.offload_optimizer=nvme is for engine.zero_stage=3, and engine.zero_stage=2; use none or cpu, or"
        " engine.zero_stage=3",
        ["engine.zero_stage=3"],
    ),
    (
        ["engine.zero_stage=3", "engine.offload_optimizer=nvme"],
        None,
        "engine.nvme_path=null leaves open where engine.offload_optimizer=nvme puts its files; set it to a directory on"
        " a fast disk of each host, or use engine.offload_optimizer=cpu",
        ["engine.nvme_path=/scratch", "engine.offload_optimizer=cpu"],
    ),
    (
        ["engine.nvme_path=/scratch"],
        None,
        "engine.nvme_path=/scratch is used by engine.offload_optimizer=nvme only, and engine.offload_optimizer=none;"
        " use null, or engine.offload_optimizer=nvme engine.zero_stage=3",
        ["engine.nvme_path=null"],
    ),
    (
        ["engine.zero_stage=0", "precision=bf16"],
        None,
        "engine.zero_stage=0 keeps no fp32 master weights, and precision.params_dtype=bf16 needs them;"
        " use engine.zero_stage=1, or engine=megatron engine.use_distributed_optimizer=false, or"
        " precision.params_dtype=fp32",
        ["engine.zero_stage=1", "precision.params_dtype=fp32"],
    ),
    (
        ["precision.grad_accumulation_dtype=params_dtype"],
        None,
        "precision.grad_accumulation_dtype=params_dtype is not supported by engine=deepspeed, which adds gradients up"
        " in fp32 only; use fp32, or engine=megatron",
        ["precision.grad_accumulation_dtype=fp32", "engine=megatron"],
    ),
    (
        ["engine=megatron", "engine.overlap_param_gather=true", "engine.use_distributed_optimizer=false"],
        None,
        "engine.overlap_param_gather=true gathers weights, and with engine.use_distributed_optimizer=false every rank"
        " updates all of its own; use false, or engine.use_distributed_optimizer=true",
        ["engine.overlap_param_gather=false", "engine.use_distributed_optimizer=true"],
    ),
    (
        ["engine=megatron", "engine.overlap_param_gather=true", "engine.overlap_grad_reduce=false"],
        None,
        "engine.overlap_param_gather=true gathers the buckets that engine.overlap_grad_reduce reduces, and without it"
        " there is one bucket; use false, or engine.overlap_grad_reduce=true",
        ["engine.overlap_param_gather=false", "engine.overlap_grad_reduce=true"],
    ),
    (
        ["engine=megatron", "engine.bucket_size=0"],
        None,
        "engine.bucket_size=0 is not at least 1; use 1 or more",
        ["engine.bucket_size=null", "engine.bucket_size=1"],
    ),
    (
        ["precision=fp16", "precision.initial_loss_scale=1000"],
        None,
        "precision.initial_loss_scale=1000 is no power of two, and only those scale a loss and its gradients without"
        " rounding; use 512 or 1024",
        ["precision.initial_loss_scale=512", "precision.initial_loss_scale=1024", "precision=fp32"],
    ),
    (
        ["precision=fp16", "precision.min_loss_scale=131072"],
        None,
        "precision.min_loss_scale=131072 is more than precision.initial_loss_scale=65536; use 65536 or less, or"
        " precision.initial_loss_scale 131072 or more",
        ["precision.min_loss_scale=65536", "precision.initial_loss_scale=131072"],
    ),
    (
        ["precision=bf16", "precision.fp8=hybrid"],
        None,
        "precision.fp8=hybrid needs the kernels of Transformer Engine, and model.transformer_impl=torch has none; use"
        " null, or model.transformer_impl=transformer_engine",
        ["precision.fp8=null", "model.transformer_impl=transformer_engine"],
    ),
    (
        ["optimizer.adam_beta2=1"],
        None,
        "optimizer.adam_beta2=1.0 is not at least 0 and less than 1; use less than 1",
        ["optimizer.adam_beta2=0.99"],
    ),
    (["optimizer.lr=0"], None, "optimizer.lr=0.0 is not more than 0; use more than 0", ["optimizer.lr=1"]),
    (
        ["optimizer.clip_grad=inf"],
        None,
        "optimizer.clip_grad=inf is not finite; use a finite number, at least 0",
        ["optimizer.clip_grad=0"],
    ),
    (
        ["model.hidden_dropout=nan"],
        None,
        "model.hidden_dropout=nan is not finite; use a finite number, at least 0 and less than 1",
        ["model.hidden_dropout=0"],
    ),
    (
        ["training.eval_interval=-5"],
        None,
        "training.eval_interval=-5 is not at least 0; use 0 or more",
        ["training.eval_interval=0"],
    ),
    (
        ["data.train=[]"],
        None,
        "data.train=[] names no data to train on; write 'data.train=[{paths:[/path/prefix]}]' (the shard"
        " /path/prefix.bin and .idx)",
        ["data.train=[{paths:[/path/prefix],weight:1}]"],
    ),
    (
        ["data.validation=[{paths:[/a]},{paths:[/b],weight:-1}]"],
        None,
        "data.validation[1].weight=-1.0 is no positive finite number; use a weight such as 1.0, or leave the data set"
        " out",
        ["data.validation.1.weight=1.0"],
    ),
    (
        ["data.train=[{paths:[]}]"],
        None,
        "data.train[0].paths=[] names no shard; write data.train[0].paths as [/path/prefix]",
        ["data.train.0.paths=[/path/prefix]"],
    ),
    (
        ["data.train=[{paths:[/data/wiki.bin]}]"],
        None,
        "data.train[0].paths=/data/wiki.bin is a file, and a shard is named by its prefix (PREFIX.bin and PREFIX.idx);"
        " use /data/wiki",
        ["data.train.0.paths=[/data/wiki]"],
    ),
    (
        ["run_name='../my run'"],
        None,
        "run_name='../my run' is no plain name (letters, digits, '.', '_' and '-'; a letter or digit first), and it"
        " names a directory; use my-run",
        ["run_name=my-run"],
    ),
    (
        ["resume=atuo"],
        None,
        "resume=atuo is not auto, never or restart, and no such path exists; did you mean auto? use auto, never,"
        " restart, or the path of a checkpoint or run directory",
        ["resume=auto", "resume=never", "resume=."],
    ),
    (
        ["tokenizer.path=/no/such/file.model"],
        None,
        "tokenizer.path=/no/such/file.model is not the tokenizer's model file: it does not exist; name the .model file"
        " that the shards were made with, or use null and set model.vocab_size",
        ["tokenizer.path=null"],
    ),
    (
        ["output_dir=/dev/null"],
        None,
        "output_dir=/dev/null cannot hold the run directory /dev/null/default: /dev/null is a file; name a directory"
        " that you can write to",
        ["output_dir=/tmp"],
    ),
]
