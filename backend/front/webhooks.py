"""`python -m backend webhooks URL`: gives Label Studio's webhooks to this backend the token that they must show."""

from __future__ import annotations

from backend.errors import BadRequest
from backend.front.auth import webhook_token
from backend.label_studio.api import LabelStudioApi
from backend.settings import Settings


def give_token(settings: Settings, url: str) -> str:
    """Write the token into the headers of all webhooks that go to `url`/webhook; says what was done.

    Label Studio makes a webhook for each project that a backend is connected to, and gives it no headers.

    Args:
        settings: the front's password, Label Studio's address and its key.
        url: the backend's address as Label Studio has it, e.g. http://localhost:9090.

    Raises:
        BadRequest: no password is set, or no webhook goes there.
        LabelStudioAway, LabelStudioRefused, LabelStudioFault.
    """
    if settings.password is None:
        raise BadRequest("PALLAS_PASSWORD is not set: the front takes webhooks without a token then")
    api = LabelStudioApi(settings, patience_s=0)
    target = f"{url.rstrip('/')}/webhook"
    ours = [hook for hook in api.call("GET", "/api/webhooks/") if hook["url"] == target]
    if not ours:
        raise BadRequest(
            f"no webhook of Label Studio goes to {target}: connect the model first, and give its address as it is there"
        )
    for hook in ours:
        headers = {**(hook.get("headers") or {}), "Authorization": f"Bearer {webhook_token(settings)}"}
        api.call("PATCH", f"/api/webhooks/{hook['id']}/", json={"headers": headers})
    return f"{len(ours)} webhook(s) to {target} show the token now"
