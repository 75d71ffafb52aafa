"""`torch.nn.MultiheadAttention` with fewer heads than its width has room for; needs PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import MultiheadAttention
from torch.nn.functional import dropout, linear


class PrunedAttention(MultiheadAttention):
    """What a `MultiheadAttention` becomes when heads, or dims of each head, are cut from it.

    Parameters have the names that they had. `head_dim` is the size of a head's queries and keys,
    `value_dim` that of its values, and `scale` what scores are multiplied with, as before the cut.
    """

    value_dim: int
    scale: float

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Any, Any]:
        """Attend; arguments and results are those of `MultiheadAttention`.

        Raises:
            ValueError: the mask differs between heads.
        """
        if attn_mask is not None and attn_mask.dim() != 2:
            raise ValueError("a mask for each head: heads were cut, give one mask for all")
        flat = query.dim() == 2
        if flat:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        scores = q @ k.transpose(-2, -1) * self.scale
        if attn_mask is not None:
            scores = scores + _additive(attn_mask, scores)
        if key_padding_mask is not None:
            scores = scores + _additive(key_padding_mask, scores)[:, None, None, :]
        weights = scores.softmax(-1)
        dropped = dropout(weights, self.dropout, self.training)
        mixed = self.out_proj((dropped @ v).transpose(1, 2).flatten(2))
        shown = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        if flat:
            return mixed.squeeze(0), None if shown is None else shown.squeeze(0)
        return mixed if self.batch_first else mixed.transpose(0, 1), shown

    def _projected(self, *inputs: Any) -> list[Any]:
        """Queries, keys and values, of shape (batch, heads, length, dims)."""
        dims = [self.head_dim, self.head_dim, self.value_dim]
        rows = [self.num_heads * n for n in dims]
        if self.in_proj_weight is not None:
            kernels = self.in_proj_weight.split(rows)
        else:
            kernels = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.split(rows)
        made = (linear(x, w, b) for x, w, b in zip(inputs, kernels, biases, strict=True))
        return [x.unflatten(-1, (self.num_heads, n)).transpose(1, 2) for x, n in zip(made, dims, strict=True)]


def _additive(mask: Any, scores: Any) -> Any:
    """A mask as numbers to add: True means that a key is not seen."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))
