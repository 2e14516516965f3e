"""The names of the relevance methods, for who asks before torch is there; `registry.METHODS` has what they do."""

from collections.abc import Iterable
from difflib import get_close_matches

NAMES = (
    *("occlusion", "occlusion_refined", "occlusion_class", "occlusion_pairs", "occlusion_random", "rise"),
    *("sensitivity_analysis", "saliency", "gradient_x_input", "smooth_grad", "integrated_gradients"),
    *(
        "lrp",
        "lrp_epsilon_plus",
        "lrp_epsilon_plus_flat",
        "lrp_epsilon_gamma_box",
        "lrp_alpha2_beta1",
        "lrp_z_box",
    ),
    *("deeplift", "shapley_values", "single_pixel", "grad_cam", "guided_backprop", "deconvnet"),
)
WINDOW = "occlusion_window_"  # and a size


def window_of_name(name: str) -> int | float | None:
    """The size in a name such as occlusion_window_0.1; None for the name of another kind.

    Raises:
        ValueError: no size.
    """
    size = name.removeprefix(WINDOW)
    if size == name:
        return None
    try:
        return float(size) if "." in size else int(size)
    except ValueError as error:
        raise ValueError(f"methods: {name!r} must end in a size, such as occlusion_window_0.1") from error


def check_names(names: Iterable[str]) -> None:
    """Refuse names that no method has.

    Raises:
        ValueError: the first of them, with the nearest.
    """
    for name in names:
        if window_of_name(name) is None and name not in NAMES:
            near = get_close_matches(name, NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else "there are"
            raise ValueError(f"methods: no method {name!r}; {hint} ({', '.join(NAMES)})")
