"""The configured network and its plain twin."""

from omegaconf import DictConfig, OmegaConf


def twins(config: DictConfig) -> dict[str, DictConfig]:
    """The configured network, and the same without mask and loss."""
    kind = config.model.kind
    plain = config.copy()
    OmegaConf.set_struct(plain, False)
    plain.model = OmegaConf.merge(
        config.model,
        {
            "kind": "plain",
            "mask": {"enabled": False},
            "loss_weight": {"ratio": 0.0},
            "equivariance": 0.0,
            "diversity": 0.0,
            "presence": 0.0,
        },
    )
    if kind == "plain":
        raise ValueError(
            "model=plain would be compared with itself; give interpretable, mask_only or loss_only"
        )
    return {kind: config, "plain": plain}
