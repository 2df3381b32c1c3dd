"""What the image keys mirror in mid-rollout, and edits of them by hand."""

import pytest

from agent.core.model.keys import ABSENT, Present
from agent.core.model.record import Phase
from agent.core.rollout.commands import (
    manual_edits,
    mirrors_in,
)
from tests.core.rollout.fixtures import REQUEST, B, after, fleet, keys, record


class TestMirrors:
    @pytest.mark.parametrize("phase", Phase)
    def test_what_the_rollout_wrote_is_no_foreign_edit(self, phase: Phase) -> None:
        """Nor what was active before it, with or without its digest."""
        given = record(phase)
        expected = mirrors_in(given)
        for sign in ("@", " "):
            active, stage = (
                ABSENT if image is None else Present(image.partition(sign)[0], 1)
                for image in (expected["active"], expected["stage"])
            )
            assert manual_edits(given, keys(given, active=active, stage=stage)) == ()

    @pytest.mark.parametrize(
        ("phase", "edited"),
        [
            (Phase.PENDING, ()),
            (Phase.STAGING, ("active", "stage")),
            (Phase.CANARY, ("active", "stage")),
            (Phase.BAKING, ("active", "stage")),
            (Phase.ROLLING_BACK, ("active", "stage")),
            (Phase.SUCCESSFUL, ()),
        ],
    )
    def test_a_foreign_edit_in_mid_rollout_is_noted(self, phase: Phase, edited: tuple[str, ...]) -> None:
        """It is ignored by every host, so somebody must read that."""
        snapshot = keys(record(phase), active=Present("app:x", 50), stage=Present("app:y", 51))
        values = {"active": "app:x", "stage": "app:y"}
        said = [f"{name}/image was changed to {values[name]} by hand in mid-rollout: it is ignored" for name in edited]
        assert manual_edits(record(phase), snapshot) == tuple(said)

    def test_what_was_active_before_a_forced_rollout_is_no_edit(self) -> None:
        """Its source is what most hosts served, whatever the key said; a first deploy had none."""
        forced = record(Phase.STAGING, request=REQUEST.model_copy(update={"forces_source": True}))
        first = record(Phase.STAGING, source=None)
        for given in (forced, first):
            assert manual_edits(given, keys(given, active=Present("app:x", 5), stage=Present(B.image, 6))) == ()

    def test_after_the_end_they_are_what_is_left(self) -> None:
        """And by hand again."""
        given = record(Phase.RETIRING)
        change = after(1, given, fleet("web-1 retired")).change
        assert change is not None
        assert change.active == change.stage
        assert mirrors_in(change.record) == {"active": None, "stage": None}
