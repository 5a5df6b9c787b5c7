"""The emulated token service: an API key in, a short-lived access token out."""

from random import Random
from urllib.parse import parse_qs

import jwt

from qsessions.emulator.service.values import USER_ID

GRANT_TYPE = "urn:ibm:params:oauth:grant-type:apikey"
_ALGORITHM = "HS256"


class TokenIssuer:
    """Issues access tokens, checks them, and can revoke all of them at once.

    Args:
        api_key: The one API key that is exchanged for tokens.
        account: The account that the tokens name.
        life_seconds: How long a token is valid.
        random: Where the key that signs the tokens comes from. The key never leaves this object.

    Raises:
        ValueError: The life is below a second.
    """

    def __init__(self, *, api_key: str, account: str, life_seconds: int, random: Random) -> None:
        if life_seconds < 1:
            raise ValueError("a token must live for at least one second")
        self._api_key = api_key
        self._account = account
        self._life_seconds = life_seconds
        self._random = random
        self._signing_key = random.randbytes(32)

    def answer(self, body: bytes, now: float) -> tuple[int, dict[str, object]]:
        """Return the status and body for a form-encoded token request, refused ones included.

        Public sources have the code for an unknown key (BXNIM0415E) and for a bad property
        (BXNIM0106E); that of a missing property is our best reading of them. No answer repeats
        what was sent.
        """
        try:
            form = parse_qs(body.decode(), max_num_fields=20)
        except ValueError:
            return self._refuse("BXNIM0109E", "The request body is not a valid form.")
        for name in ("grant_type", "apikey"):
            if name not in form:
                return self._refuse("BXNIM0109E", f"Property missing or empty: '{name}'.")
        for name, value in (("grant_type", GRANT_TYPE), ("response_type", "cloud_iam")):
            if form.get(name, [value]) != [value]:
                message = f"Validation of property '{name}' failed. Valid values: '{value}'"
                return self._refuse("BXNIM0106E", message)
        if form["apikey"] != [self._api_key]:
            return self._refuse("BXNIM0415E", "Provided API key could not be found.")
        return 200, self._issue(now)

    def accepts(self, token: str, now: float) -> bool:
        """Return whether the token was issued here and is neither expired nor revoked."""
        try:
            claims = jwt.decode(
                token,
                self._signing_key,
                algorithms=[_ALGORITHM],
                # Lifetimes are counted on the emulator's clock, not on the real one.
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.InvalidTokenError, ValueError):  # ValueError: bytes that are not text
            return False
        return bool(now < claims["exp"])

    def revoke(self) -> None:
        """Refuse every token issued so far."""
        self._signing_key = self._random.randbytes(32)

    def _issue(self, now: float) -> dict[str, object]:
        issued = int(now)
        expires = issued + self._life_seconds
        claims: dict[str, object] = {
            "iam_id": USER_ID,
            "id": USER_ID,
            "sub": "emulated@example.com",
            "account": {"valid": True, "bss": self._account},
            "iat": issued,
            "exp": expires,
            "iss": "https://iam.cloud.ibm.com/identity",
            "grant_type": GRANT_TYPE,
            "scope": "ibm openid",
            "jti": f"{self._random.getrandbits(128):032x}",
        }
        return {
            "access_token": jwt.encode(claims, self._signing_key, algorithm=_ALGORITHM),
            "refresh_token": "not_supported",
            "token_type": "Bearer",
            "expires_in": self._life_seconds,
            "expiration": expires,
            "scope": "ibm openid",
        }

    def _refuse(self, code: str, message: str) -> tuple[int, dict[str, object]]:
        return 400, error_form(code, message, f"{self._random.getrandbits(96):024x}")


def error_form(code: str, message: str, request_id: str) -> dict[str, object]:
    """Return an error in IAM's form."""
    context = {"requestId": request_id, "requestType": "incoming.Identity_Token", "locale": "en_US"}
    return {"errorCode": code, "errorMessage": message, "context": context}
