"""Which rule each layer gets: one rule for all, a composite by layer type, or a mapping by type or name.

    composite             convolutions          linear layers   first layer
    epsilon-plus          z+                    epsilon         as the others
    epsilon-plus-flat     z+                    epsilon         flat
    epsilon-gamma-box     gamma 0.25            epsilon         z-box
    alpha2-beta1          alpha-beta (2, 1)     epsilon         as the others
    alpha2-beta1-flat     alpha-beta (2, 1)     epsilon         flat
    z-box                 z+                    z+              z-box           (deep Taylor decomposition)

Epsilon alone is faithful and noisy in deep networks; composites read better: favour what speaks for an output in the
convolutions, and do not split the pixels' relevance by their brightness in the first layer (Montavon et al. 2019;
Kohlbrenner et al. 2020). The first layer is every weighted layer with no other one between it and the pixels.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from interp_cnn.explanation.network.operations import WEIGHTED
from interp_cnn.explanation.propagation.linear_layers import module_type
from interp_cnn.explanation.propagation.lrp_rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus
from interp_cnn.explanation.propagation.tape import Step, Tape, Value

RuleChoice = str | Rule | ZBox | Mapping[str | type[nn.Module], str | Rule | ZBox]

_CONVOLUTION = (nn.modules.conv._ConvNd,)
_RULES = {
    "epsilon": Epsilon(),
    "gamma": Gamma(),
    "z+": ZPlus(),
    "alpha-beta": AlphaBeta(),
    "alpha1-beta0": ZPlus(),
    "z-box": ZBox(),
    "flat": Flat(),
}
_COMPOSITES: dict[str, dict] = {
    "epsilon-plus": {_CONVOLUTION: ZPlus()},
    "epsilon-plus-flat": {_CONVOLUTION: ZPlus(), "first": Flat()},
    "epsilon-gamma-box": {_CONVOLUTION: Gamma(), "first": ZBox()},
    "alpha2-beta1": {_CONVOLUTION: AlphaBeta()},
    "alpha2-beta1-flat": {_CONVOLUTION: AlphaBeta(), "first": Flat()},
    "z-box": {nn.Module: ZPlus(), "first": ZBox()},
}
_SPELLINGS = {"zplus": "z+", "z-plus": "z+", "zbox": "z-box", "alphabeta": "alpha-beta"}


def chosen_rules(tape: Tape, choice: RuleChoice) -> dict[Step, Rule | ZBox]:
    """The rule of every weighted step on the tape.

    Args:
        tape: the operations that ran.
        choice: a rule, the name of a rule or composite, or a mapping from layer types, dotted layer names (a name also
            stands for the layers inside it) or `first` to rules or their names. Names win over `first`, `first` over
            types, later types over earlier ones; epsilon is the rule of the rest.

    Returns:
        {step: rule}.
    """
    steps = [step for step in tape.steps if step.kind in WEIGHTED and step.inputs]
    if isinstance(choice, str) and _spelled(choice) in _COMPOSITES:
        choice = _COMPOSITES[_spelled(choice)]
        return _by_key(steps, choice, must_match=False)
    if isinstance(choice, Mapping):
        return _by_key(steps, {key: _rule(rule) for key, rule in choice.items()}, must_match=True)
    return _by_key(steps, {nn.Module: _rule(choice)}, must_match=False)


def _by_key(steps: list[Step], rules: Mapping[Any, Rule | ZBox], must_match: bool) -> dict[Step, Rule | ZBox]:
    chosen: dict[Step, Rule | ZBox] = {step: Epsilon() for step in steps}
    first = _first(steps)
    for strength in (0, 1, 2):  # types, `first`, names
        for key, rule in rules.items():
            if strength != (0 if not isinstance(key, str) else 1 if key == "first" else 2):
                continue
            met = [step for step in steps if _matches(step, key, first)]
            if must_match and not met:
                layers = ", ".join(dict.fromkeys(step.layer or "(functional)" for step in steps))
                raise ValueError(f"rule names a layer {key!r} that did not run; weighted layers: {layers}")
            chosen |= dict.fromkeys(met, rule)
    return chosen


def _matches(step: Step, key: str | type | tuple, first: set[Step]) -> bool:
    if key == "first":
        return step in first
    if isinstance(key, str):
        return step.layer == key or step.layer.startswith(key + ".")
    exact = isinstance(step.module, module_type(step)) and isinstance(step.module, key)
    return exact or issubclass(module_type(step), key)


def _first(steps: list[Step]) -> set[Step]:
    """Weighted steps with no weighted step between them and the pixels."""
    behind: dict[Value | None, bool] = {}

    def weighted_before(value: Value) -> bool:
        trail = [value]
        while trail:
            top = trail[-1]
            before = [] if top.step is None else top.step.inputs
            missing = [source for source in before if source not in behind]
            if missing:
                trail.extend(missing)
                continue
            weighted = top.step is not None and top.step.kind in WEIGHTED
            behind[top] = weighted or any(behind[source] for source in before)
            trail.pop()
        return behind[value]

    return {step for step in steps if not weighted_before(step.argument(0, "input"))}


def _rule(choice: str | Rule | ZBox) -> Rule | ZBox:
    if isinstance(choice, str):
        if _spelled(choice) in _RULES:
            return _RULES[_spelled(choice)]
    elif hasattr(choice, "share") or isinstance(choice, ZBox):
        return choice
    names = ", ".join([*_RULES, *_COMPOSITES])
    raise ValueError(
        f"rule must be a rule, the name of one, or a mapping to them, got {choice!r}; names: {names}"
    )


def _spelled(name: str) -> str:
    name = name.lower().replace("_", "-").replace(" ", "-")
    return _SPELLINGS.get(name, name)
