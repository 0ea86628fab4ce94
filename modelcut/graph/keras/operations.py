"""Keras 3's operations as layers of a functional model, such as `keras.ops.add(x, 1)`.

A `.keras` file names the module of each; an `.h5` file only the class, by which Keras then looks
for a layer, in vain (keras/src/models/functional.py, `functional_from_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CLASSES = {
    "numpy": """
    Abs Absolute Add All AllClose Amax Amin Angle Any Append Arange Arccos Arccosh Arcsin
    Arcsinh Arctan Arctan2 Arctanh Argmax Argmin Argpartition Argsort Array ArraySplit Average
    Bincount BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift
    BitwiseXor BroadcastTo Cbrt Ceil Clip Concatenate Conj Conjugate Copy Corrcoef Correlate Cos
    Cosh CountNonzero Cross Cumprod Cumsum Deg2rad Diag Diagflat Diagonal Diff Digitize Divide
    DivideNoNan Dot Dsplit Dstack Einsum EmptyLike Equal Exp Exp2 ExpandDims Expm1 Fabs Flip
    Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod Full FullLike Gcd Geomspace GetItem Greater
    GreaterEqual Heaviside Histogram Hsplit Hstack Hypot I0 Imag Inner IsIn Isclose Isfinite
    Isinf Isnan Isneginf Isposinf Isreal Kron Lcm Ldexp LeftShift Less LessEqual Linspace Log
    Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr LogicalXor Logspace
    Matmul Max Maximum Mean Median Meshgrid Min Minimum Mod Moveaxis Multiply NanToNum Nanargmax
    Nanargmin Nancumprod Nancumsum Nanmax Nanmean Nanmedian Nanmin Nanpercentile Nanprod
    Nanquantile Nanstd Nansum Nanvar Ndim Negative Nextafter Nonzero NotEqual OnesLike Outer Pad
    Percentile Power Prod Ptp Quantile Rad2deg Ravel Real Reciprocal Repeat Reshape RightShift
    Roll Rot90 Round SearchSorted Select Sign Signbit Sin Sinc Sinh Size Slogdet Sort Split Sqrt
    Square Squeeze Stack Std Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot Tile
    Trace Transpose Trapezoid Tril Triu TrueDivide Trunc Unique UnravelIndex Vander Var Vdot
    View Vsplit Vstack Where ZerosLike
    """,
    "nn": """
    AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm BinaryCrossentropy CTCDecode
    CTCLoss CategoricalCrossentropy Celu Conv ConvTranspose DepthToSpace DepthwiseConv
    DotProductAttention Elu Fold Gelu Glu HardShrink HardSigmoid HardSilu HardTanh LayerNorm
    LeakyRelu LogSigmoid LogSoftmax MaxPool Moments MultiHot Normalize OneHot PSNR Polar RMSNorm
    Relu Relu6 Selu SeparableConv Sigmoid Silu SoftShrink Softmax Softplus Softsign SpaceToDepth
    SparseCategoricalCrossentropy SparsePlus SparseSigmoid Sparsemax Squareplus TanhShrink
    Threshold Unfold
    """,
    "math": """
    CDist Erf Erfc Erfinv ExtractSequences FFT FFT2 IFFT2 IRFFT ISTFT InTopK Logdet Logsumexp
    RFFT Rsqrt STFT SegmentMax SegmentMin SegmentProd SegmentReduction SegmentSum TopK
    ViewAsComplex ViewAsReal
    """,
    "linalg": """
    Cholesky CholeskyInverse Det Eig Eigh Inv JVP Lstsq LuFactor MatrixRank Norm Pinv Qr SVD
    Solve SolveTriangular
    """,
    "image": """
    AffineTransform CropImages ElasticTransform ExtractPatches GaussianBlur HSVToRGB
    MapCoordinates PadImages PerspectiveTransform RGBToGrayscale RGBToHSV Resize SSIM
    ScaleAndTranslate SobelEdges
    """,
    "core": """
    AssociativeScan Cast Cond ConvertToTensor ForiLoop Map SaturateCast Scan Scatter
    ScatterUpdate Slice SliceUpdate StopGradient Switch Unstack VectorizedMap WhileLoop
    """,
}
"""Module of `keras.src.ops` -> the classes of operations that it defines, in Keras 3.15."""

_MODULES = {name: module for module, names in _CLASSES.items() for name in names.split()}


def module_of(entry: Mapping[str, Any]) -> str:
    """The module of an operation in an `.h5` file: "keras.src.ops.numpy"; "" for anything else.

    Args:
        entry: the JSON object of a layer. An operation that shares its name with a layer (`Add`)
            has a configuration without the fields of layers.
    """
    name, config, calls = entry.get("class_name"), entry.get("config"), entry.get("inbound_nodes")
    if "module" in entry or not isinstance(name, str) or name not in _MODULES:
        return ""
    if not isinstance(config, dict) or "dtype" in config or "trainable" in config:
        return ""
    if not isinstance(calls, list) or not all(isinstance(c, dict) and "args" in c for c in calls):
        return ""
    return f"keras.src.ops.{_MODULES[name]}"


def with_modules(value: Any) -> Any:
    """A configuration in which each operation names its module, as `.keras` files do."""
    if isinstance(value, list):
        return [with_modules(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {key: with_modules(item) for key, item in value.items()}
    if module := module_of(value):
        named |= {"module": module, "registered_name": value["class_name"]}
    return named


def used(value: Any) -> dict[str, str]:
    """The operations of a configuration that names no modules: class -> module."""
    found: dict[str, str] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if module := module_of(item):
                found[item["class_name"]] = module
            stack.extend(item.values())
    return found
