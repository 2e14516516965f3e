"""Who is asked about what: the networks to explain and the pictures to show them, from runs, names and folders.

A comparison's folder stands for the runs inside it. Pictures are read when their turn comes, never all at once.
"""

import difflib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.photographs import Photograph
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.refusals import Refusal, refusing
from interp_cnn.model.outputs import Output, described, hint
from interp_cnn.runs.doubts import say_random_weights
from interp_cnn.runs.folder import Run, build_data, load_run
from interp_cnn.runs.images import Seen, leave_out_trained_on, same_dataset
from interp_cnn.runs.networks import class_names, image_channels, load_network, told_apart
from interp_cnn.runs.normalisation import Statistics, say_doubt
from interp_cnn.runs.places import run_folders
from interp_cnn.runs.pretrained import description_in, lacks_images, network_in


@dataclass(frozen=True)
class Subject:
    """A network that is asked.

    Attributes:
        name: shown everywhere; distinct.
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        classes: names; empty until `with_classes` finds them.
        channels: C of its images.
        image_size: (H, W) that it was trained on, None where it takes any.
        data: of a run.
        seen: what a run was trained on and judged by.
        folder: of a run.
        crop: whether its photographs keep their proportions and lose what is over, as in its training.
    """

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int] | None = None
    data: PartDataModule | None = None
    seen: Seen | None = None
    folder: Path | None = None
    crop: bool = False


@dataclass(frozen=True)
class InputPicture:
    """An image to explain: its name, its class where that is known, and how to get its pixels (C, H, W)."""

    name: str
    label: str
    pixels: Callable[[], Tensor]


def run_subjects(runs: Sequence[str], *, checkpoint: str = "last", root: str | None = None) -> list[Subject]:
    """The networks of run folders, loaded.

    Args:
        runs: folders; that of a comparison stands for the runs in it.
        checkpoint: "last" or "best".
        root: where the runs' images lie now; None: where they lay.
    """
    if checkpoint not in ("last", "best"):
        raise ValueError(f"checkpoint={checkpoint}: a run keeps last and best")
    subjects: list[Subject] = []
    for folder in run_folders(runs):
        if root is None and lacks_images(folder):
            subject = saved_subject(folder)
        else:
            subject = run_subject(load_run(folder, checkpoint=checkpoint, root=root))
        names, kind = [subject.name for subject in subjects], subject.name
        name = kind if kind not in names else f"{kind} ({folder.name})"
        while name in names:
            name += "'"
        subjects.append(replace(subject, name=name))
    first = subjects[0]
    for subject in subjects[1:]:
        if (subject.channels, subject.image_size) != (first.channels, first.image_size):
            raise ValueError(
                f"run: {subject.name} was trained on images of {_shape(subject)}, {first.name} on {_shape(first)}; "
                "explain them in two calls"
            )
    return subjects


def run_subject(run: Run) -> Subject:
    """A run's network, named for its kind."""
    data = run.data
    return Subject(
        run.kind,
        run.network,
        tuple(data.classes),
        data.channels,
        data.image_size,
        data,
        run.seen,
        run.folder,
        bool(getattr(data.train_set, "crop", False)),
    )


def saved_subject(folder: Path) -> Subject:
    """A network of `save_pretrained` whose images are not here: it can be asked about others."""
    network, about = network_in(folder), description_in(folder)
    built, data = about["network"], (about.get("training") or {}).get("data") or {}
    return Subject(
        about.get("kind") or folder.name,
        network,
        tuple(about["classes"]),
        built["channels"],
        tuple(built["image_size"]),
        folder=folder,
        crop=data.get("fit") == "crop",
    )


def shown_data(networks: Sequence[Subject], config: DictConfig | None = None) -> PartDataModule | None:
    """The data set whose validation images are shown: one that no run among the networks was trained on.

    Args:
        networks: that are asked; the first one's own data are shown.
        config: another data set, in place of the first network's; its images get the sizes of that network. Of a run's
            own data set only the folder may be another, which `run_subjects` has taken already.

    Raises:
        ValueError: images of another kind, or none that no run was trained on.
    """
    first = networks[0]
    data = first.data
    if config is not None and (data is None or not same_dataset(config, data)):
        size = first.image_size
        if size is not None and "image_size" in config:
            config = config.copy()
            config.image_size = size[0]
        data = build_data(config, images_of=first.folder)
    if data is None:
        return None
    if data.channels != first.channels:
        raise ValueError(
            f"{first.name} takes images of {first.channels} channels, those of data have {data.channels}"
        )
    leave_out_trained_on(data, [subject.seen for subject in networks if subject.seen is not None])
    return data


def network_subject(
    spec: str,
    *,
    weights: str | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    output: Output = None,
) -> Subject:
    """A network by name, see `load_network`; its classes are not known yet."""
    network = load_network(spec, weights=weights, mean=mean, std=std, output=output)
    say_random_weights(spec, weights)
    return Subject(spec, network, (), image_channels(network))


def with_classes(
    subject: Subject, size: tuple[int, int] | None, *, weights: str | None = None, file: str | None = None
) -> Subject:
    """A subject whose classes have names: those of the file, else its own.

    Args:
        subject: the network.
        size: (H, W) of its images; None: any.
        weights: those that the network was given.
        file: a name on each line, or a JSON list; None: none.
    """
    count = len(subject.classes)
    if not count:
        height, width = size or (224, 224)
        count = count_of_classes(subject.network, subject.name, (subject.channels, height, width))
        say_doubt(subject.network, subject.name, (subject.channels, height, width))
    names = told_apart(names_in(file)) if file is not None else subject.classes
    names = names or class_names(subject.name, count, weights=weights)
    if len(names) != count:
        raise ValueError(
            f"classes={file} has {len(names)} names, but {subject.name} tells {count} classes apart"
        )
    return replace(subject, classes=names)


def folder_pictures(
    files: Sequence[Photograph],
    classes: Sequence[str],
    *,
    size: tuple[int, int] | None,
    channels: int,
    crop: bool = False,
) -> list[InputPicture]:
    """The pictures of files, labelled where their folder has the name of a class; see `Photograph.pixels`."""
    return [
        InputPicture(
            photograph.name,
            photograph.label(classes) or "",
            lambda photograph=photograph: photograph.pixels(size, channels=channels, crop=crop),
        )
        for photograph in files
    ]


def set_pictures(data: PartDataModule) -> list[InputPicture]:
    """The validation images of a data set."""
    held_out = data.val_set
    labels = held_out.labels.tolist()
    names = getattr(held_out, "names", None) or [f"validation image {index}" for index in range(len(labels))]
    return [
        InputPicture(names[index], data.classes[label], lambda index=index: held_out[index].image)
        for index, label in enumerate(labels)
    ]


def spread(pictures: Sequence[InputPicture], limit: int | None) -> list[InputPicture]:
    """The first picture of each class in turn, then the second, up to the limit; without one all in their order."""
    if limit is None or limit >= len(pictures):
        return list(pictures)
    if limit < 1:
        raise ValueError(f"limit={limit}: expected 1 image or more, or null for all")
    groups: dict[str, list[InputPicture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.label].append(picture)
    ordered = [groups[label] for label in sorted(groups)]
    longest = max(map(len, ordered))
    turns = (group[turn] for turn in range(longest) for group in ordered if turn < len(group))
    return [picture for picture, _ in zip(turns, range(limit), strict=False)]


def count_of_classes(network: nn.Module, name: str, shape: tuple[int, int, int]) -> int:
    """K, from what a network makes of a grey image.

    Args:
        network: in evaluation mode, where its parameters lie.
        name: as it is called.
        shape: (C, H, W) of its images.

    Raises:
        ValueError: it takes no batch of such images, or answers with something else than logits.
    """
    try:
        with torch.no_grad(), refusing(network):
            answer = network(torch.full((1, *shape), 0.5, device=device_of(network)))
    except (
        Refusal,
        RuntimeError,
        TypeError,
    ) as error:  # a TypeError where forward takes more than the images
        raise ValueError(
            f"{name} does not take a batch of images {(1, *shape)}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != 1:
        raise ValueError(
            f"{name} must return logits (1, K) for one image, got {described(answer)}{hint(answer)}"
        )
    return answer.shape[1]


def _shape(subject: Subject) -> str:
    return " x ".join(map(str, (subject.channels, *(subject.image_size or ()))))


def names_in(file: str) -> tuple[str, ...]:
    """Names of classes from a file: one on each line, or a JSON list."""
    path = Path(file).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], 1, 0.5)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise FileNotFoundError(f"classes={file}: no such file{hint}")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            names = json.loads(text)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("expected a list of names")
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
    except ValueError as error:  # also what UTF-8 and JSON raise
        raise ValueError(f"classes={file} holds no names: {error}") from error
    if not names:
        raise ValueError(f"classes={file} is empty; expected a name on each line")
    return tuple(names)
