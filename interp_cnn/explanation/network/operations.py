"""The operations of a network: one name for all spellings of each, and what kind it is.

Both engines that look into networks ask here: the tape of LRP and DeepLIFT, and the graph of the occlusion engine.

    rectifiers    cut off or flatten what is negative; `gradients.rectifiers` changes their gradients
    elementwise   y_i depends on x_i alone: activations, clamps, powers             (one input, same shape)
    jumps         what they answer jumps where a value crosses a bound: rounding may decide it
    moves         every y_i is a copy of one x_j: views, slices, concatenation, padding
    winners       every y_i is a copy of one x_j, the largest in its window: max-pooling, amax
    sums          linear without weights to learn: average pooling, means, interpolation, einsum with a constant
    weighted      convolutions and linear layers: the steps that relevance rules are chosen for
    normalisers   divide by statistics of the same image: layer, group, instance, response normalisation
"""

_SPELLINGS = {
    "add": "__add__ __radd__ __iadd__ iadd",
    "sub": "__sub__ __isub__ isub subtract",
    "rsub": "__rsub__",
    "mul": "__mul__ __rmul__ __imul__ imul multiply",
    "div": "__truediv__ __itruediv__ __div__ __idiv__ truediv itruediv divide true_divide",
    "rdiv": "__rdiv__ __rtruediv__",
    "pow": "__pow__ __ipow__",
    "rpow": "__rpow__",
    "neg": "__neg__ negative",
    "abs": "__abs__ absolute",
    "matmul": "__matmul__",
    "getitem": "__getitem__",
    "cat": "concat concatenate",
    "clamp": "clip",
    "pad": "constant_pad_nd",
    "max_pool1d": "max_pool1d_with_indices",
    "max_pool2d": "max_pool2d_with_indices",
}
_NAMES = {name: kind for kind, names in _SPELLINGS.items() for name in names.split()}


def spelled(name: str) -> str:
    """The one name of an operation, from what a function, method or operator is called.

    Example:
        >>> spelled("__iadd__"), spelled("truediv"), spelled("relu_"), spelled("conv2d")
        ('add', 'div', 'relu', 'conv2d')
    """
    return _NAMES.get(name, name.rstrip("_"))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RECTIFIERS = _words(
    "relu relu6 leaky_relu rrelu prelu threshold elu selu celu softplus gelu silu hardswish mish"
)
ELEMENTWISE = RECTIFIERS | _words(
    "sigmoid tanh hardsigmoid hardtanh logsigmoid softsign tanhshrink hardshrink softshrink erf expit clamp "
    "clamp_min clamp_max abs exp expm1 log log1p sqrt rsqrt square reciprocal pow neg sin cos atan positive"
)
JUMPS = _words(
    "sign sgn round floor ceil trunc fix frac fmod remainder mod floordiv floor_divide heaviside hardshrink "
    "threshold bernoulli"
)
MOVES = _words(
    "view view_as reshape reshape_as flatten unflatten ravel permute transpose swapaxes swapdims movedim "
    "moveaxis t T mT squeeze unsqueeze expand expand_as broadcast_to repeat tile repeat_interleave contiguous "
    "clone to type type_as float double half bfloat16 cpu cuda getitem narrow select index_select gather "
    "chunk split tensor_split unbind cat stack hstack vstack dstack flip roll rot90 pad pixel_shuffle "
    "pixel_unshuffle channel_shuffle where masked_fill unfold atleast_2d diagonal"
)
WINNERS = _words("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d amax max")
AVERAGES = _words(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d mean sum interpolate upsample"
)
SUMS = AVERAGES | _words("fold matmul mm bmm einsum tensordot mv")
BINARY = _words("add sub rsub mul div rdiv maximum minimum fmax fmin")
WEIGHTED = _words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear")
NORMALISERS = _words("layer_norm group_norm instance_norm rms_norm local_response_norm normalize")
GATES = _words("sigmoid hardsigmoid tanh hardtanh softmax softsign clamp")
