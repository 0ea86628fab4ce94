"""Functions called as layers, by what they do with channels; classes of Keras' applications.

Only those stand here whose meaning is the same in every version of Keras 3 and of TensorFlow.
"""

from __future__ import annotations

import re

from modelcut.graph.node import Node

TENSORFLOW = frozenset(("TFOpLambda", "SlicingOpLambda"))
"""Classes of tf_keras whose configuration names a function of TensorFlow."""

_KERAS = {
    "each": """Abs Absolute Cast Ceil Celu Copy Cos Elu Erf Exp Exp2 Expm1 Fabs Floor Gelu
        HardShrink HardSigmoid HardSilu HardTanh LeakyRelu Log Log10 Log1p Log2 LogSigmoid NanToNum
        Negative Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign Silu Sin SoftShrink Softplus
        Softsign Sqrt Square Squareplus StopGradient Tan Tanh TanhShrink Clip""",
    "pair": """Add Divide Maximum Minimum Multiply Power Subtract TrueDivide""",
    "reduce": "Amax Amin Any All Max Mean Min Prod Std Sum Var Logsumexp",
    "softmax": "Softmax LogSoftmax",
    "reshape": "Reshape",
    "transpose": "Transpose",
    "concatenate": "Concatenate",
    "expand": "ExpandDims",
    "squeeze": "Squeeze",
    "split": "Split",
    "slice": "GetItem",
    "resize": "Resize",
    "pad": "Pad",
}
_FUNCTIONS = {
    "each": """abs cast identity sigmoid sign sqrt square tanh exp stop_gradient clip_by_value
        math.abs math.ceil math.cos math.erf math.exp math.expm1 math.floor math.log math.log1p
        math.log_sigmoid math.negative math.reciprocal math.round math.rsqrt math.sigmoid math.sign
        math.sin math.softplus math.softsign math.sqrt math.square math.tan math.tanh nn.elu nn.gelu
        nn.leaky_relu nn.relu nn.relu6 nn.selu nn.sigmoid nn.silu nn.softplus nn.softsign nn.swish
        nn.tanh __operators__.neg __operators__.abs compat.v1.nn.relu6""",
    "pair": """add subtract multiply divide maximum minimum pow math.add math.subtract math.multiply
        math.divide math.truediv math.maximum math.minimum math.pow math.squared_difference
        math.divide_no_nan __operators__.add __operators__.sub __operators__.mul
        __operators__.truediv __operators__.radd __operators__.rsub __operators__.rmul
        __operators__.rtruediv __operators__.pow""",
    "reduce": """math.reduce_all math.reduce_any math.reduce_logsumexp math.reduce_max
        math.reduce_mean math.reduce_min math.reduce_prod math.reduce_std math.reduce_sum
        math.reduce_variance reduce_max reduce_mean reduce_min reduce_sum""",
    "softmax": "nn.softmax nn.log_softmax",
    "reshape": "reshape",
    "transpose": "transpose compat.v1.transpose",
    "concatenate": "concat",
    "expand": "expand_dims",
    "squeeze": "squeeze compat.v1.squeeze",
    "split": "split",
    "slice": "__operators__.getitem",
    "resize": "image.resize",
    "pad": "pad compat.v1.pad",
}
OF_KERAS = {name: kind for kind, names in _KERAS.items() for name in names.split()}
OF_TENSORFLOW = {name: kind for kind, names in _FUNCTIONS.items() for name in names.split()}
PLACES = {
    "Reshape": ("x", "newshape"), "reshape": ("tensor", "shape"), "Pad": ("x", "pad_width"),
    "pad": ("tensor", "paddings"), "compat.v1.pad": ("tensor", "paddings"),
    "concat": ("values", "axis"), "GetItem": ("x", "key"),
    "__operators__.getitem": ("tensor", "slice_spec"),
}  # fmt: skip
"""Names of arguments that may be given by their place."""

CONVNEXT = {"LayerScale": "projection_dim", "StochasticDepth": "drop_path_rate"}
"""Layers of ConvNeXt in Keras' applications, which give what goes in or multiples of it, each with
a key of its configuration.
"""
_CONVNEXT_MODULE = re.compile(r"^(keras|tf_keras|tensorflow\.(python\.)?keras)[\w.]*\.convnext$")


def is_of_convnext(node: Node) -> bool:
    """Whether a layer is ConvNeXt's own, and not another class of that name."""
    key, module = CONVNEXT.get(node.class_name), node.entry.get("module")
    known = isinstance(module, str) and bool(_CONVNEXT_MODULE.match(module))
    return key in node.config and (module is None or known)
