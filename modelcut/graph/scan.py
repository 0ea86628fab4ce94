"""What in a model's configuration could execute, read or write."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from modelcut.errors import UnsafeError
from modelcut.graph.keras import classes, operations
from modelcut.safety import load_json, printable


@dataclass(frozen=True)
class Finding:
    """Something in a model's configuration that is not known to be harmless.

    Attributes:
        kind: "code" (would run, or names what would), "file" (reads outside the model), "custom"
            (a class or function that only its author has), "graph" (an operation of a SavedModel
            that does more than compute), "operator" (one whose code is not LiteRT's), "size" (more
            than a machine holds).
        layer: name of the innermost layer that contains it.
        what: description in a few words.
        name: of a class or function by which Keras looks for it among the user's own first; "" for
            what cannot be given.
    """

    kind: str
    layer: str
    what: str
    name: str = ""

    @property
    def carries(self) -> bool:
        """Whether a file that is made without running it carries the danger on."""
        return self.kind in ("code", "file", "graph")

    def __str__(self) -> str:
        if self.kind in ("graph", "operator", "size"):
            return printable(self.what, 240)
        where = f"layer {printable(self.layer, 60)!r}" if self.layer else "the model"
        return f"{where}: {printable(self.what)}"


_ACTIVATIONS = set(
    "elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear log_softmax mish relu"
    " relu6 selu sigmoid silu softmax softplus softsign swish tanh celu glu hard_shrink hard_tanh"
    " log_sigmoid soft_shrink sparse_plus sparse_sigmoid sparsemax squareplus tanh_shrink threshold"
    " relu_6 identity".split()
)


_OBJECTS = set(
    "Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling Orthogonal"
    " Identity IdentityInitializer LecunNormal LecunUniform GlorotNormal GlorotUniform HeNormal"
    " HeUniform STFT STFTInitializer L1 L2 L1L2 OrthogonalRegularizer MaxNorm NonNeg UnitNorm"
    " MinMaxNorm RadialConstraint DTypePolicy FloatDTypePolicy Policy PolicyV1 QuantizedDTypePolicy"
    " AutoCastPolicy DTypePolicyMap LossScaleOptimizer AbsMaxQuantizer TensorShape"
    " QuantizedFloat8DTypePolicy Int4DTypePolicy GPTQDTypePolicy AWQDTypePolicy"
    " QuantizationConfig Int8QuantizationConfig Int4QuantizationConfig Float8QuantizationConfig"
    " GPTQConfig AWQConfig"
    " Zero One".split()
)


_TRAINING = set(
    "Adam AdamW Adamax Adadelta Adagrad Adafactor Ftrl Lion Lamb Muon Nadam RMSprop SGD Optimizer"
    " ExponentialDecay CosineDecay CosineDecayRestarts PiecewiseConstantDecay PolynomialDecay"
    " InverseTimeDecay MetricsList CompileLoss CompileMetrics Mean Sum Accuracy BinaryAccuracy"
    " CategoricalAccuracy SparseCategoricalAccuracy TopKCategoricalAccuracy"
    " SparseTopKCategoricalAccuracy Precision Recall AUC F1Score FBetaScore MeanSquaredError"
    " MeanAbsoluteError RootMeanSquaredError MeanAbsolutePercentageError LogCoshError R2Score"
    " MeanMetricWrapper BinaryCrossentropy CategoricalCrossentropy SparseCategoricalCrossentropy"
    " Huber Hinge SquaredHinge CategoricalHinge KLDivergence Poisson CosineSimilarity LogCosh"
    " MeanSquaredLogarithmicError BinaryFocalCrossentropy CategoricalFocalCrossentropy Tversky Dice"
    " PrecisionAtRecall RecallAtPrecision SensitivityAtSpecificity SpecificityAtSensitivity"
    " TruePositives TrueNegatives FalsePositives FalseNegatives MeanIoU IoU OneHotIoU"
    " TFOptimizer".split()
)


_LOOKUPS = {"TextVectorization", "StringLookup", "IntegerLookup", "IndexLookup", "Discretization"}


_CODE = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}


_MODULES = re.compile(
    r"^(keras|tf_keras|tensorflow\.(python\.)?keras|tensorflow\.compat\.v[12]\.keras)"
    r"(\.(src|api|_tf_keras|legacy|engine|saving(\.\w+)?|layers(\.[\w.]+)?|models(\.\w+)?"
    r"|initializers(\.\w+)?|regularizers(\.\w+)?|constraints(\.\w+)?|activations(\.\w+)?"
    r"|losses(\.\w+)?|metrics(\.\w+)?|optimizers(\.[\w.]+)?|dtype_policies(\.\w+)?|quantizers(\.\w+)?"
    r"|mixed_precision(\.\w+)?|premade_models|engine\.\w+))*$"
)


_OPS = re.compile(r"^keras\.src\.ops\.(numpy|nn|math|linalg|image)$")


_CORE_OPS = {"Cast", "Slice", "SliceUpdate", "StopGradient", "Shape", "GetItem", "Unstack"}


_HIGHER_ORDER = {"Vectorize", "Map", "Scan", "AssociativeScan", "WhileLoop", "Cond", "ForiLoop"}


_TF_OPS = re.compile(
    r"^(math\.\w+|nn\.\w+|linalg\.\w+|__operators__\.\w+|_?__\w+__|operators\.\w+|image\.resize\w*"
    r"|reshape|concat|stack|unstack|split|squeeze|expand_dims|transpose|tile|cast|pad|reverse|gather"
    r"|gather_nd|one_hot|clip_by_value|ones_like|zeros_like|shape|slice|strided_slice|where|identity"
    r"|repeat|roll|argmax|argmin|sort|add|subtract|multiply|divide|maximum|minimum|pow|sqrt|square"
    r"|abs|exp|sign|tanh|sigmoid|convert_to_tensor|compat\.v1\.(transpose|shape|gather|squeeze"
    r"|nn\.\w+|math\.\w+|image\.resize\w*)|keras\.backend\.\w+|signal\.\w+|broadcast_to|rank|size)$"
)


_WRITES = re.compile(r"(file|print|py_func|numpy_function|io\.|save|load|import|eval|exec|while)")


_LAYER_KEYS = {"layers", "layer", "backward_layer", "cell", "cells", "forward_layer"}


def scan(config: Any, *, training: bool = False) -> Iterator[Finding]:
    """Finds whatever in a parsed configuration is not known to be harmless, at any depth.

    Args:
        config: parsed JSON of an architecture, or of a training configuration.
        training: unknown losses and metrics are let through: they are never built.
    """
    stack: list[tuple[Any, str, str]] = [(config, "", "")]
    while stack:
        value, key, layer = stack.pop()
        if isinstance(value, list):
            stack.extend((item, key, layer) for item in reversed(value))
            continue
        if key == "activation" or key.endswith("_activation"):
            if isinstance(value, str) and value not in _ACTIVATIONS:
                yield Finding("custom", layer, f"activation {value!r}")
            elif isinstance(value, list):
                yield Finding("code", layer, "an activation that is not a name")
        if not isinstance(value, dict):
            continue
        if "class_name" in value:
            inner = value.get("config")
            name = value.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
            if key in _LAYER_KEYS or not key:
                layer = name if isinstance(name, str) else layer
            yield from _class_finding(value, key, layer, training=training)
        if "function_type" in value or "module_objects" in value:
            yield Finding("code", layer, "a function given as code or module")
        for name in ("compile_config", "training_config"):
            if name in value:
                yield from scan(value[name], training=True)
        rest = ((k, v) for k, v in value.items() if k not in ("compile_config", "training_config"))
        stack.extend((item, str(name), layer) for name, item in reversed(list(rest)))


def _class_finding(
    entry: dict[str, Any], key: str, layer: str, *, training: bool
) -> Iterator[Finding]:
    name, module = entry.get("class_name"), entry.get("module") or operations.module_of(entry)
    module = module or None
    config = entry.get("config")
    if not isinstance(name, str):
        yield Finding("code", layer, "a class name that is not a text")
        return
    if name in _CODE or (name.startswith("__") and name != "__keras_tensor__"):
        if name not in ("__tensor__", "__numpy__", "__ellipsis__", "__slice__"):
            yield Finding("code", layer, f"{name} carries code")
        return
    if name == "__keras_tensor__":
        return
    if name in ("TFOpLambda", "SlicingOpLambda"):
        function = config.get("function") if isinstance(config, dict) else None
        if not isinstance(function, str) or not _TF_OPS.match(function) or _WRITES.search(function):
            yield Finding("code", layer, f"{name} calls {function}")
        return
    if name in ("function", "builtin_function_or_method"):
        if not (isinstance(config, str) and config in _ACTIVATIONS and _plain(module)):
            kind = "custom" if training and _plain(module) else "code"
            given = config if isinstance(config, str) else ""
            yield Finding(kind, layer, f"names the function {config} of module {module}", given)
        return
    if isinstance(module, str) and (_OPS.match(module) or module == "keras.src.ops.core"):
        if name in _HIGHER_ORDER or (module.endswith("core") and name not in _CORE_OPS):
            yield Finding("code", layer, f"the operation {name} of {module}")
        return
    if module is not None and not (isinstance(module, str) and _MODULES.match(module)):
        custom = entry.get("registered_name")
        kind = "custom" if custom and module is None else "code"
        given = entry.get("registered_name", name)
        given = given if isinstance(given, str) else ""
        yield Finding(kind, layer, f"class {name} of module {module}", given)
        return
    yield from _known_class(entry, name, key, layer, training=training)


def _plain(module: Any) -> bool:
    return module in (None, "builtins", "keras.activations", "keras.losses", "keras.metrics")


def _known_class(
    entry: dict[str, Any], name: str, key: str, layer: str, *, training: bool
) -> Iterator[Finding]:
    config = entry.get("config")
    is_layer = classes.is_known(name) or name in classes.MODELS or name in classes.WRAPPERS
    if name in _LOOKUPS:
        source = config.get("vocabulary") if isinstance(config, dict) else None
        if isinstance(source, (str, dict)):
            yield Finding("file", layer, f"{name} reads its vocabulary from {source}")
        return
    if key in _LAYER_KEYS or not key:
        if not is_layer:
            yield Finding("custom", layer, f"class {name}")
        return
    if is_layer or name in _OBJECTS or name in _TRAINING:
        if is_layer and name in classes.WRAPPERS | {"Merge"} and key.endswith("initializer"):
            yield Finding("code", layer, f"{name} as {key}")
        return
    if not training:
        yield Finding("custom", layer, f"class {name} as {key}")


def findings(text: str, training: str, *, where: str) -> list[Finding]:
    """What is not known to be harmless in an architecture, and in how it is trained.

    Args:
        text: the architecture, JSON; "" for none.
        training: the training configuration, JSON; "" for none.
        where: name of the file in messages.
    """
    found = list(scan(json.loads(text))) if text else []
    if training:
        value = load_json(training, where=where, what="training configuration")
        found += scan(value, training=True)
    return found


def check(
    found: Iterable[Finding], *, where: str, trust: bool, custom: Collection[str] = ()
) -> None:
    """Refuses what would do more than compute, before an engine is started.

    Args:
        found: the findings.
        where: name of the file in messages.
        trust: whether the user trusts the file.
        custom: names of the classes and functions that the user gave, whose code is the user's; of
            what is still missing and has no code in the file, the engine will say.

    Raises:
        UnsafeError: names the first finding, and how many there are.
    """
    if trust:
        return
    own = {name for name in custom if name}
    left = [f for f in found if f.name not in own and not (f.kind == "custom" and own)]
    if not left:
        return
    left.sort(key=lambda finding: finding.kind == "custom")
    first = left[0]
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    if first.kind == "custom":
        hint = "give your own with --custom-objects FILE.py"
        raise UnsafeError(f"{where}: {first} is not one of Keras's{more}", hint)
    hint = "--trust runs it, if you trust its author"
    if first.kind == "graph":
        what = f"its graph holds {printable(first.what, 240)}"
        raise UnsafeError(f"{where}: {what}, which is not known to be harmless{more}", hint)
    if first.kind == "operator":
        raise UnsafeError(f"{where}: needs {first.what}{more}", "--trust runs it all the same")
    does = "would read a file" if first.kind == "file" else "would run code of the file"
    if first.name and custom:
        hint = f"--custom-objects defines no {printable(first.name, 60)!r}; {hint}"
    elif first.name:
        hint = f"give your own with --custom-objects FILE.py; {hint}"
    raise UnsafeError(f"{where}: {first}: {does}{more}", hint)
