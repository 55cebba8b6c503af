"""What the deployed clients sign, and what is signed for them, with SHARED_SECRET.

Owns the two forms byte for byte: the signature of a request (plain SHA-256, lower hex) and the
`license_token` of an answer. The secret ships inside every client, so neither proves who is
asking. Sessions of the dashboard are not made here and never use this secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime

from api.licences import Licence


def request_signature(device_id: str, version: str, ts: str, shared_secret: str) -> str:
    """Return the `sig` that a client computes over its decoded values: lower hex SHA-256."""
    signed = "|".join((device_id, version, ts, shared_secret))
    return hashlib.sha256(signed.encode()).hexdigest()


def license_token(licence: Licence, issued_at: datetime, shared_secret: str) -> dict[str, object]:
    """Return the token of an answer: payload, the exact text signed, and its HMAC-SHA256."""
    payload = {
        "device_id": licence.device_id,
        "expires_at": licence.expires.isoformat() if licence.expires else None,
        "features": licence.features,
        "issued_at": issued_at.isoformat(),
        "license_type": licence.license_type,
        "status": licence.status,
    }
    raw = json.dumps(payload, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    signature = hmac.new(shared_secret.encode(), raw.encode(), hashlib.sha256).hexdigest()
    return {"payload": payload, "payload_raw": raw, "signature": signature}
