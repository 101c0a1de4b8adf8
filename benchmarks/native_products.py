"""The products of single layers that benchmarks/native.py measures."""

import re
from collections.abc import Callable

import tensorflow as tf
from absl import flags

from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD
from topkast_tf.core.sparsities import kept
from topkast_tf.kernels.blocks import LANES, block_matmul
from topkast_tf.kernels.convolutions import sparse_conv
from topkast_tf.kernels.library import library
from topkast_tf.kernels.products import sparse_matmul

CASES = tuple(
    f"{product}_{shape}"
    for product in ("forward", "gradient")
    for shape in (
        *("512x2048", "2048x512"),
        *(f"conv_{shape}" for shape in ("56x64", "28x128", "14x256", "7x512")),
    )
) + tuple(
    f"{product}_{shape}"
    for product in ("blocks", "blocks_gradient")
    for shape in ("512x2048", "2048x512")
)
VARIANTS = {
    "forward": ("dense", "static", "native"),
    "gradient": ("dense", "native"),
    "forward_conv": ("dense", "native"),
    "gradient_conv": ("dense", "native"),
    "blocks": ("dense", "entries", "outputs", "inputs"),
    "blocks_gradient": ("dense", "entries", "outputs", "inputs"),
}
REPEATS = 5
_NAME = re.compile(rf"({'|'.join(VARIANTS)})_(\d+)x(\d+)$")


def is_product(case: str) -> bool:
    """Whether a case is a product, and not a step of a model."""
    return _NAME.match(case) is not None


def product_of(
    case: str, variant: str, fwd: float, bwd: float, values: flags.FlagValues
) -> Callable[[], object]:
    """`REPEATS` products as a function without arguments, compiled and warm."""
    what, inputs, outputs = _NAME.match(case).groups()  # type: ignore[union-attr]
    inputs, outputs = int(inputs), int(outputs)
    if what.startswith("blocks"):
        return blocks_of(what, variant, (inputs, outputs), (fwd, bwd), values)
    if what.endswith("conv"):
        what = what.removesuffix("_conv")
        return convolution_of(what, variant, (inputs, outputs), (fwd, bwd), values)
    generator = tf.random.Generator.from_seed(0)
    x = tf.cast(generator.normal([values.positions, inputs]), values.dtype)
    dy = tf.cast(generator.normal([values.positions, outputs]), values.dtype)
    theta = generator.normal([inputs, outputs])
    codes = _codes_of(theta, fwd, bwd)
    native = library()
    how = {"key": hash(case) % 2**31, "cpu": native.cpu}

    def product():
        if variant == "dense":
            if what == "forward":
                return tf.matmul(x, tf.cast(tf.identity(theta), x.dtype))
            return tf.matmul(x, dy, transpose_a=True)
        if what == "forward":
            code = "static" if variant == "static" else "auto"
            return sparse_matmul(x, theta, codes, key=how["key"], code=code)
        return native.ops.topkast_sparse_weight_gradient(x, dy, codes, **how)

    return _compiled(product)


def blocks_of(
    what: str,
    variant: str,
    sizes: tuple[int, int],
    sparsities: tuple[float, float],
    values: flags.FlagValues,
) -> Callable[[], object]:
    """A product of a weight whose sets are whole blocks, as `product_of`."""
    inputs, outputs = sizes
    generator = tf.random.Generator.from_seed(0)
    x = generator.normal([values.positions, inputs])
    dy = generator.normal([values.positions, outputs])
    theta = generator.normal([inputs, outputs])
    block = (LANES, 1) if variant == "inputs" else (1, LANES)
    blocks = Blocks(MatrixView((inputs, outputs)), block)
    codes = blocks.expand(_codes_of(blocks.scores(theta), *sparsities))
    how = {"key": hash((what, variant)) % 2**31}

    def product():
        if variant == "dense":
            if what == "blocks":
                return tf.matmul(x, tf.identity(theta))
            return tf.matmul(x, dy, transpose_a=True)
        if what == "blocks":
            if variant == "entries":
                return sparse_matmul(x, theta, codes, **how)
            return block_matmul(x, theta, codes, lanes=variant, **how)
        native = library()
        if variant == "entries":
            return native.ops.topkast_sparse_weight_gradient(
                x, dy, codes, cpu=native.cpu, **how
            )
        return native.ops.topkast_block_weight_gradient(
            x, dy, codes, lanes=variant, cpu=native.cpu, **how
        )

    return _compiled(product)


def convolution_of(
    what: str,
    variant: str,
    sizes: tuple[int, int],
    sparsities: tuple[float, float],
    values: flags.FlagValues,
) -> Callable[[], object]:
    """A product of a convolution, as `product_of`."""
    size, channels = sizes
    generator = tf.random.Generator.from_seed(0)
    x = generator.normal([values.images, size, size, channels])
    x = tf.cast(x, values.dtype)
    theta = generator.normal([3, 3, channels, channels])
    codes = _codes_of(theta, *sparsities)
    how = {"strides": [1, 1], "dilations": [1, 1], "key": hash(what) % 2**31}

    def product():
        if variant == "dense" and what == "forward":
            return tf.nn.conv2d(x, tf.cast(tf.identity(theta), x.dtype), 1, "SAME")
        if variant == "dense":
            return tf.raw_ops.Conv2DBackpropFilter(
                input=x,
                filter_sizes=theta.shape,
                out_backprop=x,
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
        if what == "forward":
            return sparse_conv(x, theta, codes, padding="same", **how)
        native = library()
        return native.ops.topkast_sparse_conv_weight_gradient(
            x, x, codes, padding="SAME", cpu=native.cpu, **how
        )

    return _compiled(product)


def _compiled(product: Callable[[], tf.Tensor]) -> Callable[[], object]:
    @tf.function
    def call():
        total = tf.zeros([])
        for _ in tf.range(REPEATS):
            # Nothing large leaves TensorFlow.
            total += tf.cast(tf.reshape(product(), [-1])[0], tf.float32)
        return total

    def waited():
        return call().numpy()

    waited()
    return waited


def _codes_of(theta: tf.Tensor, fwd: float, bwd: float) -> tf.Tensor:
    """Sets by magnitude, as Top-KAST selects them."""
    size = int(tf.size(theta))
    order = tf.argsort(-tf.abs(tf.reshape(theta, [-1])))
    rank = tf.scatter_nd(order[:, None], tf.range(size), [size])
    codes = tf.where(rank < kept(size, bwd), BACKWARD_ONLY, 0)
    codes = tf.where(rank < kept(size, fwd), FORWARD, codes)
    return tf.cast(tf.reshape(codes, theta.shape), tf.uint8)
