"""Export: pictures in a shop's own form, with an index beside them that says what lies there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from face0_worker.contract.derivation import FileFormat
from producer.delivery.fetching import Request
from producer.delivery.places import Place
from producer.delivery.selection import Selection
from producer.results import Brought, Copy, bring
from producer.services import Services

INDEX = "index.json"


def export(
    services: Services, request: Request, place: Place, on_file: Callable[[str], None] = lambda _: None
) -> Brought:
    """Bring the pictures, then write `index.json`, which names what lies there; the same export writes the same bytes.

    It is written when everything else stands, so who waits for it finds whole files. Of a part (`--since`) none is
    written: what it left out lies there too.
    Raises: as `results.bring`.
    """
    brought = bring(services, request, place, on_file)
    if not request.selection.part:
        file_format = request.form.format if request.form else FileFormat.PNG
        place.put(INDEX, index(request.selection, brought, file_format))
    return brought


def index(selection: Selection, brought: Brought, file_format: FileFormat) -> bytes:
    """Return the index: every picture with its file, its sha256, its size, and what it was made from."""
    pictures = [_entry(copy, file_format) for copy in brought.copies]
    whole = {**selection.about, "count": len(pictures), "missing": len(brought.problems), "pictures": pictures}
    return (json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode()


def _entry(copy: Copy, file_format: FileFormat) -> dict[str, Any]:
    receipt = copy.picture.receipt
    entry = {
        "file": copy.name,
        "sku": copy.picture.sku,
        "variant": copy.picture.variant,
        "sha256": receipt.picture_sha256,
        "content_type": file_format.media_type,
        "width": receipt.width,
        "height": receipt.height,
    }
    return entry | ({"parent_sha256": receipt.parent_sha256, "form": receipt.form} if receipt.parent_sha256 else {})
