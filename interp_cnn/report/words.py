"""Words for people: what methods and classes are called in print (commands and CSV keep the short names), how maps are
read.
"""

from collections.abc import Set

_TITLES = {
    "gradient_x_input": "gradient \u00d7 input",
    "smooth_grad": "SmoothGrad",
    "lrp": "LRP",
    "deeplift": "DeepLIFT",
    "shapley_values": "Shapley values",
    "single_pixel": "single-pixel perturbation",
    "grad_cam": "Grad-CAM",
    "occlusion_refined": "occlusion, coarse to fine",
    "occlusion_class": "class after occlusion",
    "occlusion_pairs": "occlusion in pairs",
    "occlusion_random": "random occlusion",
    "rise": "RISE masks",
    "guided_backprop": "guided back-propagation",
}


def method_title(method: str) -> str:
    """`grad_cam` -> `Grad-CAM`, `lrp_z_box` -> `LRP z-box`, `my_own` -> `my own`."""
    if method.startswith("occlusion_window_"):
        return f"occlusion, window {method.removeprefix('occlusion_window_')}"
    if method.startswith("lrp_"):
        return f"LRP {method.removeprefix('lrp_').replace('_', '-')}"
    return _TITLES.get(method, method.replace("_", " "))


def class_words(name: str) -> str:
    """A class as a word among numbers: one that is called by a number says that it is a class."""
    return f"class {name}" if name.isdigit() else name


def reading(colours: str, questions: Set[str] = frozenset()) -> str:
    """How to read signed maps."""
    support, oppose = ("green", "red") if colours == "green-red" else ("orange", "blue")
    question = next(iter(questions)) if len(questions) == 1 else "the class"
    target, _, against = question.partition(" against ")
    other = f"for {against}" if against else "against it"
    return f"{support.capitalize()} speaks for {target}, {oppose} {other}, what stays grey does not matter."
