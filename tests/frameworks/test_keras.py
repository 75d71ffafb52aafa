"""Round trips through Keras: the model that is cut by the plan computes what the pruned file does.

With TensorFlow, or with `KERAS_BACKEND=torch`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from keras import layers as kl

import onnx_prune
from onnx_prune import InputError
from onnx_prune.keras import mask_model, slice_model, slice_weights
from onnx_prune.plan import Plan

TOLERANCE = 1e-4
IMAGE = (2, 16, 16, 3)


def convolutional() -> Any:
    return keras.Sequential(
        [
            keras.Input(IMAGE[1:]),
            kl.Conv2D(16, 3, padding="same", use_bias=False),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.MaxPool2D(),
            kl.Conv2D(32, 3, padding="same", activation="relu"),
            kl.BatchNormalization(),
            kl.MaxPool2D(),
            kl.Flatten(),
            kl.Dense(32),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.Dense(10),
        ]
    )


def residual() -> Any:
    """With squeeze-excite, depthwise, separable and transposed convolutions."""
    inputs = keras.Input(IMAGE[1:])
    x = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    for _ in range(2):
        y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(16, 3, padding="same", use_bias=False)(x)))
        y = kl.BatchNormalization()(kl.DepthwiseConv2D(3, padding="same", use_bias=False)(y))
        z = kl.Reshape((1, 1, 16))(kl.GlobalAveragePooling2D()(y))
        z = kl.Conv2D(16, 1, activation="sigmoid")(kl.Conv2D(8, 1, activation="relu")(z))
        x = kl.ReLU()(kl.Add()([x, kl.Multiply()([y, z])]))
    x = kl.BatchNormalization()(kl.SeparableConv2D(32, 3, strides=2, padding="same")(x))
    x = kl.Conv2DTranspose(16, 2, strides=2)(x)
    return keras.Model(inputs, kl.Dense(10)(kl.GlobalAveragePooling2D()(x)))


def transformer() -> Any:
    inputs = keras.Input((8, 16))
    x = kl.Dense(32)(inputs)
    y = kl.LayerNormalization()(x)
    x = kl.Add()([x, kl.MultiHeadAttention(4, 8)(y, y)])
    y = kl.Dense(32)(kl.Dense(64, activation="relu")(kl.LayerNormalization()(x)))
    return keras.Model(inputs, kl.Dense(5)(kl.Add()([x, y])))


def trained(model: Any) -> Any:
    """The model with statistics and biases as training leaves them: no two alike."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        leaf = variable.path.split("/")[-1]
        if leaf in ("bias", "beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
        elif leaf in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def inputs_of(model: Any) -> Any:
    shape = (2, *model.input_shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def export(model: Any, path: Path) -> Path:
    model(inputs_of(model))  # Keras exports only what was called
    model.export(path, format="onnx", verbose=False)
    return path


def error(path: Path, model: Any) -> float:
    """Largest difference between a file and a model, relative to the largest value."""
    x = inputs_of(model)
    session = onnxruntime.InferenceSession(path)
    theirs = session.run(None, {session.get_inputs()[0].name: x})[0]
    ours = keras.ops.convert_to_numpy(model(x, training=False))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "convolutional": (convolutional, {}),
    "residual": (residual, {}),
    "transformer": (transformer, {"attention": "heads"}),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("untrained", [False, True], ids=["trained", "untrained"])
@pytest.mark.parametrize("name", CASES)
def test_a_cut_model_computes_the_pruned_one(name: str, untrained: bool, tmp_path: Path) -> None:
    if name == "transformer" and keras.backend.backend() == "torch":
        pytest.skip("PyTorch's exporter does not take Keras's attention")
    make, options = CASES[name]
    model = make() if untrained else trained(make())
    source = export(model, tmp_path / "in.onnx")
    small, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    onnx_prune.prune(source, small, ratio=0.5, save_plan=plan, **options)
    smaller, report = slice_model(model, plan, source)
    arrays, _ = slice_weights(model, plan, source)
    assert not report.missing
    assert not report.unmatched
    assert smaller.count_params() < 0.6 * model.count_params()
    assert [tuple(v.shape) for v in smaller.weights] == [array.shape for array in arrays]
    found = error(small, smaller)
    print(f"{name}: {found:.1e}")
    assert found < TOLERANCE


def test_a_masked_model_computes_the_masked_one_and_stays_masked(tmp_path: Path) -> None:
    model = trained(convolutional())
    source = export(model, tmp_path / "in.onnx")
    onnx_prune.sparsify(source, tmp_path / "out.onnx", ratio=0.8, save_mask=tmp_path / "mask.npz")
    callback = mask_model(model, tmp_path / "mask.npz", source)
    assert error(tmp_path / "out.onnx", model) < TOLERANCE
    kernels = [v for v in model.weights if v.path.endswith("kernel")]
    zeros = [np.asarray(keras.ops.convert_to_numpy(v)) == 0 for v in kernels]
    model.compile("adam", "mse")
    model.fit(np.ones(IMAGE), np.ones((2, 10)), epochs=2, verbose=0, callbacks=[callback])
    after = [np.asarray(keras.ops.convert_to_numpy(v)) for v in kernels]
    assert all((array[zero] == 0).all() for array, zero in zip(after, zeros, strict=True))
    assert sum(zero.sum() for zero in zeros) == pytest.approx(
        0.8 * sum(zero.size for zero in zeros), abs=len(zeros)
    )
    assert all((array[~zero] != 0).mean() > 0.9 for array, zero in zip(after, zeros, strict=True))


def test_a_model_that_cannot_be_built_anew_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = kl.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model, plan = Own(), Plan("", "l1", 0.5, {}, (), ())
    with pytest.raises(InputError, match="the model has no weights; build it first"):
        slice_weights(model, plan)
    model(np.ones((1, 2), np.float32))
    with pytest.raises(
        InputError, match=r"can't be built from the layers' configurations: .*; cut it with slice_weights"
    ):
        slice_model(model, plan)


def test_a_reshape_in_a_sequential_model_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), kl.Dense(8), kl.Reshape((2, 4)), kl.Dense(3)])
    source = export(trained(model), tmp_path / "in.onnx")
    onnx_prune.prune(source, tmp_path / "out.onnx", round_to=1, save_plan=tmp_path / "plan.json")
    with pytest.raises(InputError, match="a smaller model can't be built from the layers' configurations"):
        slice_model(model, tmp_path / "plan.json", source)
