"""The two sides of benchmarks/gpu_step.py: each is built, warmed up, timed and released again."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from trainer.parallel import cpu_shim

cpu_shim.install()  # before Megatron-Core is imported below

import torch  # noqa: E402
import transformers  # noqa: E402

from trainer.build import wire_model, wrap_in_engine  # noqa: E402
from trainer.config.engine import MegatronEngineConfig  # noqa: E402
from trainer.config.model import ModelConfig  # noqa: E402
from trainer.config.model_math import count_parameters, model_flops_per_token  # noqa: E402
from trainer.config.optim import OptimizerConfig, PrecisionConfig  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.data.micro_batch import MicroBatch  # noqa: E402
from trainer.engine.forward import forward_backward  # noqa: E402
from trainer.metrics.mfu import device_peak_tflops  # noqa: E402
from trainer.parallel.world import start_world, stop_world  # noqa: E402

OPTIMIZER = OptimizerConfig(lr=1e-4)
# A step has one micro batch, so there are no sums that would lose digits; the peer's gradients are no finer.
PRECISION = PrecisionConfig(params_dtype="bf16", grad_accumulation_dtype="params_dtype")
ENGINE = MegatronEngineConfig(use_distributed_optimizer=False, overlap_grad_reduce=False)
Step = Callable[[torch.Tensor], float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its batch."""

    model: ModelConfig
    batch_size: int
    has_optimizer: bool = True
    recomputes_layers: bool = False

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch."""
        return self.batch_size * self.model.seq_length

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, without padding: multiples of 128 all."""
        assert self.model.vocab_size is not None
        return self.model.vocab_size


SHAPES = {
    "tiny": Shape(
        model=ModelConfig(
            num_layers=2,
            hidden_size=64,
            ffn_hidden_size=128,
            num_attention_heads=4,
            num_query_groups=2,
            seq_length=64,
            vocab_size=256,
        ),
        batch_size=2,
    ),
    "0.5B": Shape(
        model=ModelConfig(
            num_layers=24,
            hidden_size=1280,
            ffn_hidden_size=3456,
            num_attention_heads=20,
            num_query_groups=4,
            seq_length=4096,
            vocab_size=32000,
        ),
        batch_size=4,
    ),
    # Llama 3.2 1B and 3B, Llama 3.1 8B; an output layer of its own, whose work is the same.
    "1B": Shape(
        model=ModelConfig(
            num_layers=16,
            hidden_size=2048,
            ffn_hidden_size=8192,
            num_attention_heads=32,
            num_query_groups=8,
            seq_length=4096,
            vocab_size=128256,
            rotary_base=500000.0,
        ),
        batch_size=2,
    ),
    "3B": Shape(
        model=ModelConfig(
            num_layers=28,
            hidden_size=3072,
            ffn_hidden_size=8192,
            num_attention_heads=24,
            num_query_groups=8,
            seq_length=4096,
            vocab_size=128256,
            rotary_base=500000.0,
        ),
        batch_size=1,
    ),
    "8B": Shape(
        model=ModelConfig(
            num_layers=32,
            hidden_size=4096,
            ffn_hidden_size=14336,
            num_attention_heads=32,
            num_query_groups=8,
            seq_length=8192,
            vocab_size=128256,
            rotary_base=500000.0,
        ),
        batch_size=1,
        has_optimizer=False,
        recomputes_layers=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One round of one side."""

    seconds: float | None
    """Of a step; None where it failed."""
    peak_memory_bytes: int | None
    """Of torch's allocator, over weights, optimizer and steps; None on a CPU, which has no such count."""
    last_loss: float | None
    error: str | None = None


class Sides:
    """Both sides on this process's device, as a context that starts and ends Megatron-Core's groups."""

    def __init__(self, *, peer_backend: str) -> None:
        self._peer_backend = peer_backend
        self._world = start_world(ParallelConfig(), timeout_seconds=600, seed=1)
        self.device = self._world.device
        self.device_name = torch.cuda.get_device_name(self.device) if self._is_cuda else "CPU"
        self.peak_tflops = device_peak_tflops(self.device, configured=None)
        self.peer_name = (
            f"transformers {transformers.__version__} LlamaForCausalLM, sdpa, torch.compile ({peer_backend}), "
            "fp32 weights under autocast where there is an optimizer"
        )

    def __enter__(self) -> "Sides":
        """Nothing more to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the groups."""
        stop_world()

    @property
    def _is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def count_parameters(self, shape: Shape) -> int:
        """Of the whole model."""
        return count_parameters(shape.model, shape.vocab_size)

    def count_flops_per_token(self, shape: Shape) -> int:
        """Of forward and backward pass."""
        return model_flops_per_token(shape.model, shape.vocab_size)

    def measure(self, side: str, shape: Shape, *, num_steps: int, num_warm_up: int) -> Measured:
        """Build a side, take its steps, release it; whatever stops it stops neither the other side nor other shapes."""
        self._release()
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            return self._measure(side, shape, num_steps=num_steps, num_warm_up=num_warm_up)
        except Exception as error:  # compilers and libraries wrap a lack of memory in errors of their own
            message = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].partition('. ')[0]}"
            return Measured(seconds=None, peak_memory_bytes=None, last_loss=None, error=message)

    def _measure(self, side: str, shape: Shape, *, num_steps: int, num_warm_up: int) -> Measured:
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(
            shape.vocab_size, (shape.batch_size, shape.model.seq_length + 1), generator=generator
        ).to(self.device)
        step = {"ours": self._build_ours, "peer": self._build_peer}[side](shape)
        for _ in range(num_warm_up):
            step(tokens)
        self._synchronize()
        start = time.perf_counter()
        losses = [step(tokens) for _ in range(num_steps)]
        self._synchronize()
        seconds = (time.perf_counter() - start) / num_steps
        peak = torch.cuda.max_memory_allocated(self.device) if self._is_cuda else None
        return Measured(seconds=seconds, peak_memory_bytes=peak, last_loss=losses[-1])

    def _synchronize(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize(self.device)

    def _release(self) -> None:
        """Engines and compiled models refer to themselves: it takes the collector to free them.

        And kernels are forgotten: after one shape, those of the next would be compiled for any shape, and be slower.
        """
        torch.compiler.reset()
        gc.collect()
        if self._is_cuda:
            torch.cuda.empty_cache()

    def _build_ours(self, shape: Shape) -> Step:
        recompute = (
            {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
            if shape.recomputes_layers
            else {}
        )
        chunks = wire_model(
            shape.model,
            parallel=ParallelConfig(**recompute),  # type: ignore[arg-type]
            precision=PRECISION,
            padded_vocab_size=shape.vocab_size,
            world=self._world,
        )
        # Drawn where they are: the draws that do not depend on the layout are made on the host, minutes for 8 B.
        with torch.no_grad():
            for parameter in chunks[0].parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=shape.model.init_method_std)
        mask = torch.ones(shape.batch_size, shape.model.seq_length, device=self.device)
        positions = torch.arange(shape.model.seq_length, device=self.device).expand(shape.batch_size, -1)

        def batch_of(tokens: torch.Tensor) -> MicroBatch:
            return MicroBatch(
                tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, position_ids=positions, sample_ids=()
            )

        if shape.has_optimizer:
            engine = wrap_in_engine(
                chunks,
                config=ENGINE,
                optimizer=OPTIMIZER,
                precision=PRECISION,
                groups=self._world.groups,
                device=self.device,
            )
            return lambda tokens: engine.train_step([batch_of(tokens)], learning_rate=OPTIMIZER.lr).loss

        def step(tokens: torch.Tensor) -> float:
            found = forward_backward(
                chunks, [batch_of(tokens)], groups=self._world.groups, device=self.device, forward_only=False
            )
            for parameter in chunks[0].parameters():
                parameter.grad = None
            return found.loss_sum / found.num_tokens

        return step

    def _build_peer(self, shape: Shape) -> Step:
        config = transformers.LlamaConfig(
            num_hidden_layers=shape.model.num_layers,
            hidden_size=shape.model.hidden_size,
            intermediate_size=shape.model.ffn_hidden_size,
            num_attention_heads=shape.model.num_attention_heads,
            num_key_value_heads=shape.model.num_query_groups,
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.model.seq_length,
            rope_theta=shape.model.rotary_base,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
            use_cache=False,
        )
        with self.device:
            model = transformers.LlamaForCausalLM(config)
        model.to(torch.float32 if shape.has_optimizer else torch.bfloat16).train()
        if shape.recomputes_layers:
            model.gradient_checkpointing_enable()
        weights = list(model.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": OPTIMIZER.weight_decay},
                {"params": [weight for weight in weights if weight.ndim == 1], "weight_decay": 0.0},
            ],
            lr=OPTIMIZER.lr,
            betas=(OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2),
            eps=OPTIMIZER.adam_eps,
            fused=True,
        )
        compiled = torch.compile(model, backend=self._peer_backend)

        def step(tokens: torch.Tensor) -> float:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=shape.has_optimizer):
                output = compiled(
                    input_ids=tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous()
                )
            output.loss.backward()
            if shape.has_optimizer:
                torch.nn.utils.clip_grad_norm_(weights, OPTIMIZER.clip_grad)
                optimizer.step()
            optimizer.zero_grad()
            return float(output.loss.detach())

        return step
