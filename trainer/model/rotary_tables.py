"""Compute the angles of rotary position embeddings, with the scalings that stretch a model's context.

d: channels that are rotated, S: positions.
"""

import math

import torch

from trainer.config.model import ModelConfig


class RotaryTables:
    """Hold the inverse frequencies of a model's kinds of layers, and compute angles from them.

    There is one kind, or two: layers with a window have their own, the second, if `rotary_base_local` is set.
    """

    def __init__(self, model: ModelConfig) -> None:
        channels = model.qk_pos_emb_head_dim if model.multi_latent_attention else model.head_size
        frequencies = [_scale(inverse_frequencies(channels, base=model.rotary_base), model=model)]
        if model.rotary_base_local is not None:
            frequencies.append(inverse_frequencies(channels, base=model.rotary_base_local))
        self._frequencies = torch.stack(frequencies)
        self._kept: dict[tuple[int, torch.device], torch.Tensor] = {}

    @property
    def num_kinds(self) -> int:
        """Return the number of kinds of layers."""
        return len(self._frequencies)

    def angles(self, num_positions: int, *, device: torch.device) -> torch.Tensor:
        """Return the angles of positions from 0 on.

        Returns:
            [kinds, S, 1, 1, d] fp32; both halves of the last axis are equal.
        """
        key = (num_positions, device)
        if key not in self._kept:
            frequencies = self._frequencies.to(device)
            positions = torch.arange(num_positions, device=device, dtype=torch.float32)
            angles = positions[None, :, None] * frequencies[:, None]
            self._kept = {key: torch.cat([angles, angles], dim=-1)[:, :, None, None]}
        return self._kept[key]


def inverse_frequencies(channels: int, *, base: float) -> torch.Tensor:
    """Return angles per position: [d / 2] fp32.

    Source: Su et al. 2021 (arXiv:2104.09864), section 3.2.2.
    """
    return 1.0 / (base ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels))


def attention_factor(model: ModelConfig) -> float:
    """Return the factor of rotated queries and of rotated keys: 1 except for YaRN.

    Source: Peng et al. 2023 (YaRN, arXiv:2309.00071), section 3.4, and DeepSeek-V2's reference implementation.
    """
    factor = model.rope_scaling_factor
    if factor is None or model.rope_scaling_type != "yarn":
        return 1.0
    if model.yarn_attention_factor is not None:
        return model.yarn_attention_factor
    if model.yarn_mscale is not None and model.yarn_mscale_all_dim is not None:
        return _concentration(factor, model.yarn_mscale) / _concentration(factor, model.yarn_mscale_all_dim)
    return _concentration(factor, 1.0)


def latent_score_factor(model: ModelConfig) -> float:
    """Return the factor of the scores of multi-latent attention that YaRN adds beside `attention_factor`.

    Source: DeepSeek-V2's reference implementation (`mscale_all_dim`).
    """
    factor = model.rope_scaling_factor
    if factor is None or model.rope_scaling_type != "yarn" or not model.yarn_mscale_all_dim:
        return 1.0
    return _concentration(factor, model.yarn_mscale_all_dim) ** 2


def _concentration(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _scale(frequencies: torch.Tensor, *, model: ModelConfig) -> torch.Tensor:
    factor = model.rope_scaling_factor
    if factor is None:
        return frequencies
    if model.rope_scaling_type == "linear":
        return frequencies / factor
    if model.rope_scaling_type == "llama3":
        return _scale_as_llama3(frequencies, factor=factor, model=model)
    return _scale_as_yarn(frequencies, factor=factor, model=model)


def _scale_as_llama3(frequencies: torch.Tensor, *, factor: float, model: ModelConfig) -> torch.Tensor:
    """Source: Llama 3.1's reference implementation (apply_scaling)."""
    low, high = model.rope_low_freq_factor, model.rope_high_freq_factor
    length = model.rope_original_max_position_embeddings
    wavelengths = 2 * math.pi / frequencies
    scaled = torch.where(wavelengths > length / low, frequencies / factor, frequencies)
    smooth = (length / wavelengths - low) / (high - low)
    between = (1 - smooth) * scaled / factor + smooth * scaled
    is_between = (wavelengths >= length / high) & (wavelengths <= length / low)
    return torch.where(is_between, between, scaled)


def _scale_as_yarn(frequencies: torch.Tensor, *, factor: float, model: ModelConfig) -> torch.Tensor:
    """Source: Peng et al. 2023 (arXiv:2309.00071), section 3.2; bounds are whole channels, as in its code."""
    num_pairs = len(frequencies)

    def pair_with(num_turns: float) -> float:
        length = model.rope_original_max_position_embeddings / (num_turns * 2 * math.pi)
        return 2 * num_pairs * math.log(length) / (2 * math.log(model.rotary_base))

    low = max(math.floor(pair_with(model.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_with(model.yarn_beta_slow)), 2 * num_pairs - 1)
    pairs = torch.arange(num_pairs, dtype=torch.float32)
    share_divided = ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    return frequencies / factor * share_divided + frequencies * (1 - share_divided)
