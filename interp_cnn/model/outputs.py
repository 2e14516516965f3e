"""Which of several things that a network answers are its logits.

Networks of others hand back tuples (logits and features), dictionaries (`{"logits": ..., "loss": ...}`), named tuples.
`output=` says which entry is meant: a number for a place, a name for a key.
"""

from collections.abc import Mapping

from torch import Tensor, nn

Output = int | str | None


def picked(answer: object, output: Output) -> Tensor:
    """The entry of a network's answer that holds the logits.

    Args:
        answer: of a network, as it is where `output` is None.
        output: the place in a tuple or list, or the key of a dictionary or named tuple.

    Raises:
        ValueError: there is no such entry.

    Example:
        >>> import torch
        >>> picked((torch.zeros(2, 5), "features"), 0).shape, picked({"logits": torch.zeros(2, 3)}, "logits").shape
        (torch.Size([2, 5]), torch.Size([2, 3]))
    """
    if output is None:
        return answer  # pyright: ignore[reportReturnType] - whoever asks for logits checks them
    if isinstance(answer, Mapping) and output in answer:
        return answer[output]
    if isinstance(answer, tuple | list) and isinstance(output, int) and -len(answer) <= output < len(answer):
        return answer[output]
    if isinstance(output, str) and output in getattr(answer, "_fields", ()):
        return getattr(answer, output)
    raise ValueError(f"output is {output!r}, but the network answers with {described(answer)}")


def described(answer: object) -> str:
    """What a network answers, in words, with the entries that `output=` could name.

    Example:
        >>> described({"logits": 1}), described((1, 2))
        ("a dictionary of 'logits'", 'a tuple of 2 entries')
    """
    if isinstance(answer, Tensor):
        return str(tuple(answer.shape))
    if isinstance(answer, Mapping):
        return f"a dictionary of {', '.join(map(repr, list(answer)[:6]))}"
    if isinstance(answer, tuple | list):
        named = f" ({', '.join(answer._fields)})" if hasattr(answer, "_fields") else ""  # pyright: ignore
        return f"a {'list' if isinstance(answer, list) else 'tuple'} of {len(answer)} entries{named}"
    return f"a {type(answer).__name__}"


def hint(answer: object, setting: str = "output") -> str:
    """How to name the logits among what a network answers, by a setting; empty for what has no entries.

    Example:
        >>> hint({"loss": 1, "logits": 2})
        '; output=logits takes that entry'
    """
    if isinstance(answer, Mapping) and answer:
        key = next((entry for entry in answer if "logit" in str(entry).lower()), next(iter(answer)))
        return f"; {setting}={key} takes that entry"
    return f"; {setting}=0 takes its first entry" if isinstance(answer, tuple | list) and answer else ""


class Picked(nn.Module):
    """A network of somebody else whose logits are one entry of what it answers.

    Args:
        body: images (B, C, H, W) -> a tuple, list or dictionary.
        output: of `picked`.
    """

    def __init__(self, body: nn.Module, output: int | str) -> None:
        super().__init__()
        self.body, self.output = body, output

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        return picked(self.body(images), self.output)
