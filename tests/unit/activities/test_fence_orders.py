"""What a fence is asked with: a loss that was accepted is accepted by the guard, too."""

from __future__ import annotations

import pytest

from tests.unit.activities.moved import Site


@pytest.mark.parametrize("accepted", [True, False])
async def test_an_accepted_loss_reaches_the_guard(accepted: bool) -> None:
    site = Site()
    await site.run(site.guarding.fence, accept_data_loss=accepted, reason="it burnt down")
    ((what, order),) = site.guards.orders
    assert (what, order.accept_loss, order.planned) == ("fence", accepted, False)
