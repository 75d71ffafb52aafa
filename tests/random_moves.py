"""All moves of a random model: each puts some nodes on a tensor and gives back a new one."""

from __future__ import annotations

from collections.abc import Callable

from tests import random_bends as bends
from tests import random_cases as cases
from tests import random_layers as layers
from tests import random_lookups as lookups
from tests import random_shapes as shapes
from tests.random_graphs import Builder, Value

Move = Callable[[Builder, Value], Value]
LAYERS: tuple[Move, ...] = (
    *(layers.linear, layers.conv, layers.gemm, layers.attention, layers.bottleneck, layers.einsum),
    *(layers.conv_transpose, layers.excite, layers.recurrent, layers.vendor, lookups.tied),
    *(lookups.integers, lookups.fused_attention, cases.cased, cases.cased),
)
OTHERS: tuple[Move, ...] = (
    *(bends.elementwise, bends.arithmetic, bends.settings, bends.batch_norm, bends.pool, bends.norm),
    *(bends.choice, bends.reduce, bends.ordered, bends.resize, bends.quantized, bends.random),
    *(shapes.layout, shapes.part, shapes.gated, shapes.shuffle, shapes.widen, layers.embedding),
    *(lookups.halved, lookups.rotary, lookups.spread, lookups.repeated, lookups.group_norm),
    *(lookups.looked_up, lookups.branched, lookups.best),
)
