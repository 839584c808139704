"""The guard: what every request passes before a route, and every response before the network. Pure ASGI, for its cost.

In order: a request id; a browser's preflight; framing that cannot be misread; and for `/api` the token, the user's
turn, and the whole body, within its limits; a place among the requests under way. Whatever goes wrong, here or behind,
becomes a problem response with all the headers of a good one, because without the CORS headers a browser hides it from
the frontend.
"""

import asyncio
import time
from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.body import Disconnected, refuse_ambiguous_length
from backend.api.cors import CORS
from backend.api.exchange import Exchange, Observe
from backend.api.limits import ConcurrencyLimit, RateLimit, UserConcurrencyLimit
from backend.api.problems import ENDING, Problem
from backend.auth.identity import Identity
from backend.auth.tokens import TokenVerifier
from backend.config import Settings
from backend.errors import TokenInvalid, TokenMissing
from backend.observation import observation


class Guard:
    """The middleware. `verifier` says who is calling; whom it has identified is `scope["identity"]` from then on."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        verifier: TokenVerifier,
        places: ConcurrencyLimit,
        observe: Observe | None = None,
    ) -> None:
        self._app = app
        self._observe = observe
        self._verifier = verifier
        self._settings = settings
        self._cors = CORS(settings.allowed_origins, settings.allowed_headers)
        self._places = places
        self._user_limit = UserConcurrencyLimit(settings.user_concurrency)
        self._rate = RateLimit(*settings.rate_limit) if settings.rate_limit is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; whatever happens, respond and write its line into the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._under_prefix(scope)
        exchange = Exchange(scope, receive, send, self._cors, self._settings)
        observation.set(exchange.observation)
        async with AsyncExitStack() as turn:
            try:
                await self._handle(exchange, turn)
            except Disconnected:
                pass
            except asyncio.CancelledError:
                # The server is ending, and has waited as long as it may. A response is all that can still be sent.
                unknown, unwritten = Problem("outcome_unknown"), Problem("database_unavailable", detail=ENDING)
                await exchange.respond_to_error(unknown if exchange.may_have_written else unwritten)
            except Exception as error:  # noqa: BLE001 # the last place where an error can become a response
                await exchange.respond_to_error(error)
            finally:
                exchange.give_place_back()
                exchange.log(self._observe)

    def _under_prefix(self, scope: Scope) -> Scope:
        """Return the scope with the whole prefix in its path, as ASGI wants it.

        A proxy may have taken it off, or the part of it that the application which mounts this one has as its own. One
        that leaves it makes two of it, where uvicorn was told `--root-path` and adds another.
        """
        prefix: str = self._settings.root_path or scope.get("root_path", "")
        path: str = scope["path"]
        if not prefix:
            return scope
        candidates = (path.removeprefix(prefix), path, scope.get("app_root_path", "") + path)
        whole = next((each for each in candidates if f"{each}/".startswith(f"{prefix}/")), prefix + path)
        return {**scope, "root_path": prefix, "path": whole}

    async def _handle(self, exchange: Exchange, turn: AsyncExitStack) -> None:
        if exchange.is_preflight:
            await exchange.respond(self._cors.preflight(exchange.origin))
            return
        refuse_ambiguous_length(exchange.scope, exchange.headers)
        if exchange.is_probe:
            await exchange.pass_on(self._app)
            return
        if self._places.is_reached:  # before the token, which costs more than the refusal
            raise Problem("overloaded")
        if not exchange.needs_token:
            # No body is read: no address takes one without a token, and those of strangers would fill the memory for
            # bodies. Nor do strangers take a place: with the last one the service would look overloaded to its users.
            await exchange.pass_on(self._app)
            return
        identity = exchange.scope["identity"] = await self._identify(exchange)
        if self._rate is not None:
            exchange.add_headers(await self._rate.take(identity.user_id))
        started = time.perf_counter()
        # Who waits for requests of the same user holds none of the places, and no body: those of a user that are under
        # way at once are bounded, so one user cannot fill the memory for bodies.
        await turn.enter_async_context(self._user_limit.of(identity.user_id))
        turn.push_async_callback(exchange.taken)
        exchange.observation.waited += time.perf_counter() - started
        await exchange.read_body()
        await exchange.pass_on(self._app, self._places)

    async def _identify(self, exchange: Exchange) -> Identity:
        values = [value for name, value in exchange.scope["headers"] if name == b"authorization"]
        if len(values) > 1:
            raise TokenInvalid("more than one Authorization header")
        scheme, _, token = (values[0] if values else b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise TokenMissing
        return await self._verifier.verify(token.strip(b" ").decode("latin-1"))
