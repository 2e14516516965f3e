"""How much the filter loss weighs: as a share of the task's gradient, which is the same for any network.

The publication's weight is "lambda ~ 1 / epoch x mean of max x" with a constant that is not given. Here the weight
is a ratio: the filter loss pulls at the layer's feature maps `ratio` times as hard as the task does,

    weight = ratio x schedule x |d task / d x| / |d filter loss / d x|

Both norms are those of the very step (`model.auxiliary_loss`), so the ratio holds in every step. Norms smoothed over
steps do not hold it: the task's gradient falls during a training and differs between batches by more than that.
"""

from interp_cnn.model.paper_variants import SCHEDULES, inverse_epoch


class LossWeight:
    """The weight of a layer's filter loss.

    Args:
        ratio: of the gradient norms; 0 switches the loss off.
        schedule: "warmup": rises linearly over `warmup_epochs`, none for a constant weight; "inverse_epoch":
            ratio / epoch (paper).
        warmup_epochs: see schedule.
    """

    def __init__(self, ratio: float, *, schedule: str = "warmup", warmup_epochs: float = 2.0):
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}")
        if ratio < 0:
            raise ValueError(f"ratio is {ratio}; expected 0 (off) or more")
        self.ratio = ratio
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs

    def target(self, epoch: float) -> float:
        """Ratio of the gradient norms after so many (fractional) epochs."""
        if self.schedule == "inverse_epoch":
            return inverse_epoch(self.ratio, epoch)
        return self.ratio * min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs > 0 else self.ratio
