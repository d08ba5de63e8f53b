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
        " model.num_layers 6 or 9, or parallel.pipeline_model_parallel_size 1, 2, 4 or 8",
        ["model.num_layers=6", "model.num_layers=9", "parallel.pipeline_model_parallel_size=4"],
    ),
    (
        ["model.num_layers=8", "parallel=pp2", "parallel.virtual_pipeline_model_parallel_size=3"],
        None,
        "model.num_layers=8 is no multiple of parallel.pipeline_model_parallel_size=2 *"
        " parallel.virtual_pipeline_model_parallel_size=3 = 6, so stages would differ; use model.num_layers 6 or 12, or"
        " parallel.virtual_pipeline_model_parallel_size null",
        ["model.num_layers=6", "model.num_layers=12", "parallel.virtual_pipeline_model_parallel_size=null"],
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
        ["training.train_iters=50"],
        None,
        "lr_schedule.warmup_steps=100 is after the end of the decay, training.train_iters=50; use"
        " lr_schedule.warmup_steps 0 to 50, or training.train_iters 100 or more",
        ["lr_schedule.warmup_steps=50", "training.train_iters=100"],
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
        ["lr_schedule=wsd", "lr_schedule.wsd_decay_steps=901"],
        None,
        "lr_schedule.wsd_decay_steps=901 (901 steps of decay) does not fit between lr_schedule.warmup_steps=100 and"
        " training.train_iters=1000; use lr_schedule.wsd_decay_steps 1 to 900",
        ["lr_schedule.wsd_decay_steps=900"],
    ),
    (
        ["lr_schedule=wsd", "training.train_iters=105"],
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
        ["model.transformer_impl=transformer_engine"],
        None,
        "model.transformer_impl=transformer_engine needs the package transformer_engine, which is not installed here;"
        " use torch, or install transformer-engine",
        ["model.transformer_impl=torch"],
    ),
    (
        ["parallel.expert_model_parallel_size=2"],
        None,
        "parallel.expert_model_parallel_size=2 is not 1: there is no mixture-of-experts model yet, so there are no"
        " experts to share; use 1",
        ["parallel.expert_model_parallel_size=1"],
    ),
    (
        ["engine.zero_stage=2"],
        None,
        "engine.zero_stage=2 is not at least 0 and at most 1: stages 2 and 3 are not supported yet; use 0 or 1",
        ["engine.zero_stage=0", "engine.zero_stage=1"],
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
        "data.train=[] names no data to train on; write data.train=[{paths:[/path/prefix],weight:1}] (the shard"
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
        "resume=atuo is neither auto nor never, and no such path exists; did you mean auto? use auto, never, or the"
        " path of a checkpoint or run directory",
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
