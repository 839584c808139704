"""What verifying a token costs, by algorithm: the first time, and every time after it."""

import statistics
import time
from typing import Any

from backend.auth.tokens import TokenVerifier
from backend.config import Settings
from tests.auth.issuer import ORIGIN, PUBLIC_KEY_ALGORITHMS, claims, running_issuer, secret_signer, signer

SECRET = "a-secret-for-measurements-of-enough-length"  # of no service
TOKENS = 500


async def measure_tokens() -> list[dict[str, Any]]:
    """Return, by algorithm, the median CPU µs of a token's first verification and of the ones after it."""
    signers = [secret_signer(SECRET), *(signer(algorithm) for algorithm in PUBLIC_KEY_ALGORITHMS)]
    table = []
    async with running_issuer(*(each.jwk() for each in signers[1:])) as issuer:
        settings = Settings(better_auth_secret=SECRET, better_auth_url=ORIGIN, better_auth_jwks_url=issuer.origin)
        for each in signers:
            verifier = TokenVerifier(settings)
            tokens = [each.token(payload=claims(sub=f"user-{number}")) for number in range(TOKENS)]
            await verifier.verify(each.token())  # fetches the keys
            first, again = [await time_all(verifier, tokens) for _ in range(2)]
            table.append({"algorithm": each.algorithm, "first_us": round(first, 1), "again_us": round(again, 1)})
    return table


async def time_all(verifier: TokenVerifier, tokens: list[str]) -> float:
    """Verify every token; return the median µs."""
    times = []
    for token in tokens:
        started = time.perf_counter()
        await verifier.verify(token)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6
