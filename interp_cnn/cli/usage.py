"""What `--help` says: a command's choices and the settings that are used most; all of them when asked.

interp-cnn --help                          the commands and the config groups
interp-cnn compare --help                  the settings used most, and the choices of each group
interp-cnn compare --help all              every setting, those of the chosen groups too
interp-cnn compare data=mnist --help       also those of a choice
"""

from collections.abc import Sequence

from interp_cnn.cli import config_text

OWN_IMAGES = "data/image_folder"  # its settings are told with a training's, whatever data are the default
FLAGS = """  -m, --multirun   run once for every combination: seed=0,1,2 model=interpretable,plain
  --cfg job        print the whole configuration and stop (--resolve fills in what it refers to)
  -h, --help       this help; with GROUP=CHOICE also the settings of that choice, with all every setting"""
_TRAINING = (
    *("data.root", "data.annotations", "data.image_size", "data.batch_size"),
    *("model.name", "model.weights", "model.layers", "model.filters", "model.mask.strength"),
    *("model.loss_weight.ratio", "training.epochs", "training.learning_rate"),
    *("training.views", "training.objective", "seed", "device"),
)
MOST_USED: dict[str, tuple[str, ...]] = {
    "compare": (*_TRAINING, "sample_images", "methods", "decoder_epochs", "resamples"),
    "train": (*_TRAINING, "ckpt_path"),
    "explain": (
        *("run", "network", "weights", "mean", "std", "images", "image_size", "classes", "limit", "what"),
        *(
            "methods",
            "target",
            "against",
            "window",
            "stride",
            "baseline",
            "layer",
            "estimate",
            "seed",
            "device",
        ),
    ),
    "evaluate": (
        *("runs", "network", "weights", "mean", "std", "data.root", "data.annotations", "layer", "readout"),
        *("checkpoint", "untrained", "resamples", "seed", "device"),
    ),
    "export": (
        *("run", "what", "to", "checkpoint", "images", "methods", "exemplars", "model_formats"),
        *("table_formats", "resamples", "seed", "device"),
    ),
    "play": (
        *("run", "network", "weights", "mean", "std", "images", "image_size", "classes", "limit"),
        *("layer", "port", "browser", "seed", "device"),
    ),
    "study": (
        "run",
        "images",
        "together",
        "shown",
        "widths",
        "resamples",
        "training.epochs",
        "seed",
        "device",
    ),
}


def overview(commands: Sequence[str], plain_commands: dict[str, str]) -> str:
    """The help of `interp-cnn`: every command on a line, the config groups and their choices."""
    lines = ["usage: interp-cnn COMMAND [GROUP=CHOICE ...] [KEY=VALUE ...]", "", "commands:"]
    lines += [f"  {name:<12} {config_text.description(name)}" for name in commands]
    lines += [f"  {name:<12} {text}" for name, text in plain_commands.items()]
    lines += ["", "config groups:"]
    lines += [f"  {group:<12} {', '.join(choices)}" for group, choices in config_text.groups().items()]
    lines += [
        "",
        "interp-cnn COMMAND --help lists a command's settings; --version tells the version.",
        'Tab completion: eval "$(interp-cnn completion bash)", or zsh; interp-cnn completion fish | source',
    ]
    return "\n".join(lines)


def command_help(command: str, words: Sequence[str] = ()) -> str:
    """The help of one command: the settings used most, its groups, and the settings of every GROUP=CHOICE in `words`;
    with the word `all` every setting.
    """
    groups = config_text.groups()
    pairs = [word.lstrip("+").partition("=") for word in words]
    chosen = {key: choice for key, _, choice in pairs if choice in groups.get(key, ())}
    everything = "all" in words
    lines = [f"usage: interp-cnn {command} [GROUP=CHOICE ...] [KEY=VALUE ...]", ""]
    lines += [config_text.description(command), ""]
    if everything:
        lines += ["settings (KEY=VALUE):", *_table(config_text.composed(command, chosen))]
    else:
        lines += [
            f"settings used most (KEY=VALUE; interp-cnn {command} --help all lists every one):",
            *_table(most_used(command)),
        ]
    lines += ["", "config groups (GROUP=CHOICE, * the default):"]
    for group, default in config_text.chosen(command).items():
        for choice in groups.get(group, ()):
            text = f"{'*' if choice == default else ' '} {group}={choice}"
            lines.append(f"{text:<24}  {config_text.description(f'{group}/{choice}')}".rstrip())
    for group, choice in {} if everything else chosen.items():
        prefix = "" if group == "experiment" else f"{group}."
        settings = config_text.settings(f"{group}/{choice}")
        lines += ["", f"{group}={choice}: {config_text.description(f'{group}/{choice}')}".rstrip(": ")]
        lines += _table([config_text.Setting(prefix + s.key, s.default, s.comment) for s in settings])
    return "\n".join([*lines, "", "flags:", FLAGS])


def most_used(command: str) -> list[config_text.Setting]:
    """The settings of `MOST_USED` that the command has."""
    known = {setting.key: setting for setting in config_text.composed(command, {})}
    for setting in config_text.settings(OWN_IMAGES):
        key = f"data.{setting.key}"
        if key not in known:
            known[key] = config_text.Setting(
                key, setting.default, f"of data=image_folder: {setting.comment}".rstrip(": ")
            )
    return [known[key] for key in MOST_USED[command] if key in known]


def _table(settings: list[config_text.Setting]) -> list[str]:
    texts = [f"{setting.key}={setting.default}" for setting in settings]
    width = min(max(map(len, texts), default=0), 36)
    return [f"  {text:<{width}}  {s.comment}".rstrip() for text, s in zip(texts, settings, strict=True)]
