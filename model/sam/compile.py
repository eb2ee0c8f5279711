"""SAM 2's image encoder, compiled."""

from __future__ import annotations

import logging

from model.sam.tower import Tower

log = logging.getLogger(__name__)


def compile_encoder(tower: Tower) -> bool:
    """Compile SAM 2's image encoder, with a picture of zeros as a trial; False where that fails: it runs as before."""
    encoder = tower.sam.image_encoder
    encoder.compile(dynamic=False)
    try:
        tower.try_encoder()
    except Exception as error:
        encoder._compiled_call_impl = None
        reason = str(error).strip().splitlines()
        log.warning("SAM 2's encoder is not compiled (%s): it runs as it is", reason[0] if reason else error)
        return False
    return True
