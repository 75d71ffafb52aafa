"""Models made from a graph to find out shapes: what inference works on, and what is run.

Bodies are laid out beside the nodes that they are in, for one step; so their tensors have shapes like others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node
from onnx_prune.shape.assignments import element

Inputs = Mapping[str, tuple[int, ...]]
_SMALL = 1024  # elements: shape operands and index tables stay in the skeleton, weights do not


def skeleton(graph: Graph, inputs: Inputs, step: int) -> onnx.ModelProto:
    """The model without its large weights (their shapes stay, as inputs) and with fixed inputs.

    Args:
        graph: the graph.
        inputs: shapes of the graph's inputs.
        step: the step for which bodies are laid out.
    """
    source = graph.model
    model = onnx.ModelProto(ir_version=max(source.ir_version, 4))
    model.opset_import.extend(source.opset_import)
    model.functions.extend(source.functions)
    model.graph.name = source.graph.name
    model.graph.node.extend(_laid_out(graph.nodes, step))
    for value in graph.inputs:
        if not value.type.HasField("tensor_type"):
            model.graph.input.append(value)
            continue
        kind = value.type.tensor_type.elem_type
        fixed = onnx.helper.make_tensor_value_info(value.name, kind, inputs[value.name])
        model.graph.input.append(fixed)
    for name, tensor in graph.initializers.items():
        count = 1
        for n in tensor.dims:
            count *= n
        if count > _SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(info)
        else:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = name
    for value in source.graph.output:
        model.graph.output.append(onnx.ValueInfoProto(name=value.name))
    model.graph.value_info.extend(_declared(graph, inputs))
    return model


def probing(
    graph: Graph, inputs: Inputs, wanted: Sequence[str], nodes: int, step: int | None
) -> onnx.ModelProto:
    """The first `nodes` nodes of the graph, with a Shape output for every wanted tensor.

    The tensors are no outputs themselves: a run would keep all of them, whether anybody fetches them or not.

    Args:
        graph: the graph.
        inputs: shapes of the graph's inputs.
        wanted: names of tensors.
        nodes: how many nodes there are to be.
        step: the step for which bodies are laid out, None to leave them out.
    """
    model = _beginning(graph, inputs, nodes, step)
    for j, name in enumerate(wanted):
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [f"shape of {j}"]))
        model.graph.output.append(onnx.ValueInfoProto(name=f"shape of {j}"))
    return model


def telling(
    graph: Graph, inputs: Inputs, wanted: Sequence[str], nodes: int, step: int | None
) -> onnx.ModelProto:
    """The same nodes with the wanted tensors as outputs: the runtime tells their types without a run."""
    model = _beginning(graph, inputs, nodes, step)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return model


def _beginning(graph: Graph, inputs: Inputs, nodes: int, step: int | None) -> onnx.ModelProto:
    """The first nodes of the graph, which answer nothing yet."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    _fix_inputs(model, inputs)
    del model.graph.node[:]
    model.graph.node.extend(_laid_out(graph.nodes[:nodes], step))
    own = {tensor.name for tensor in graph.model.graph.initializer}
    for name, tensor in graph.initializers.items():
        if name not in own and step is not None:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = name
    del model.graph.value_info[:]
    del model.graph.output[:]
    return model


def _laid_out(nodes: Sequence[Node], step: int | None) -> Iterator[onnx.NodeProto]:
    """The nodes, and before each that has bodies these, as they run at a step; without them if it is None."""
    for node in nodes:
        if step is None and node.inner:
            continue
        for proto in node.step:
            if step and node.part == ".count":
                value = np.full_like(onnx.numpy_helper.to_array(proto.attribute[0].t), step)
                number = onnx.numpy_helper.from_array(value)
                yield onnx.helper.make_node("Constant", [], proto.output, value=number)
            else:
                yield proto


def _declared(graph: Graph, inputs: Inputs) -> Iterator[onnx.ValueInfoProto]:
    """What the model declares of results that inference knows nothing of: custom operators'."""
    sizes = {
        dim.dim_param: n
        for value in graph.inputs
        for dim, n in zip(element(value.type).shape.dim, inputs[value.name], strict=True)
        if dim.dim_param
    }
    foreign = {name for node in graph.nodes if node.domain for name in node.outputs}
    for value in graph.model.graph.value_info if foreign else ():
        if value.name in foreign:
            fixed = onnx.ValueInfoProto()
            fixed.CopyFrom(value)
            for dim in fixed.type.tensor_type.shape.dim:
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
            yield fixed


def _fix_inputs(model: onnx.ModelProto, inputs: Inputs) -> None:
    for value in model.graph.input:
        for dim, n in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False):
            dim.dim_value = n
