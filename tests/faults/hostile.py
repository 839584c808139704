"""Bytes that nobody should send, by kind: what is no HTTP, what is nearly HTTP, and HTTP that wants too much.

Most hold a good token: what is wrong with them is all that can refuse them. None is a HEAD request,
after which a reader,
would have to know whether a body follows.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Hostile:
    """What is sent, and whether the sender then closes its side: else the server could wait for the rest."""

    data: bytes
    half_closed: bool = True


class Maker:
    """Makes requests of a user who has a task."""

    def __init__(self, token: str, task_id: str) -> None:
        self.token = token.encode()
        self.task = b"/api/tasks/" + task_id.encode()
        self.good_body = b'{"title": "from a hostile client"}'

    def request(
        self,
        method: bytes = b"GET",
        target: bytes = b"/api/tasks",
        *headers: bytes,
        body: bytes = b"",
        version: bytes = b" HTTP/1.1",
        usual: tuple[bytes, ...] | None = None,
    ) -> bytes:
        """Return the bytes of a request; `usual` replaces the host, the token and the type of the body."""
        if usual is None:
            usual = (b"Host: test", b"Authorization: Bearer " + self.token, b"Content-Type: application/json")
        return b"\r\n".join((method + b" " + target + version, *usual, *headers, b"", body))

    def post(self, *headers: bytes, body: bytes | None = None, target: bytes = b"/api/tasks") -> bytes:
        """Return a POST request that says nothing of its body's length."""
        return self.request(b"POST", target, *headers, body=self.good_body if body is None else body)

    def sent(self, body: bytes, method: bytes = b"POST", target: bytes = b"/api/tasks") -> bytes:
        """Return a whole request with this body, the last of its connection."""
        return self.request(method, target, b"Content-Length: %d" % len(body), b"Connection: close", body=body)

    def good(self) -> bytes:
        """Return a request that the service fulfils."""
        return self.post(b"Content-Length: %d" % len(self.good_body))


Bytes = Iterator[bytes]

# fmt: off

def request_lines(make: Maker) -> Bytes:
    for version in (b"", b" ", b" HTTP", b" HTTP/", b" HTTP/1", b" HTTP/1.", b" HTTP/.1", b" HTTP/0.9", b" HTTP/1.0"):
        yield make.request(version=version)
    for version in (
        b"1.2", b"2.0", b"3", b"9.9", b"11.1", b"1.11", b"01.1", b"-1.1", b"1,1", b"1.1 x", b"1.1\t", b"1.1\0",
    ):
        yield make.request(version=b" HTTP/" + version)
    for version in (
        b" http/1.1", b" HTTPS/1.1", b" ICY/1.1", b" RTSP/1.0", b"  HTTP/1.1", b"\tHTTP/1.1", b" HTTP /1.1",
    ):
        yield make.request(version=version)
    for method in (
        b"get", b"Get", b"TRACE", b"CONNECT", b"PRI", b"QUERY", b"PROPFIND", b"PURGE", b"M-SEARCH", b"SOURCE",
    ):
        yield make.request(method)
        yield make.request(method, b"test:443")
    for method in (
        b"", b" ", b"\t", b"\0", b"G E T", b"GE\0T", b"GET\0", b"\xff", b"G\xc3\x89T", b"(", b"GET,POST", b"A" * 9000,
    ):
        yield make.request(method)
    for before in (b"\r\n", b"\n", b"\r", b"\r\n" * 500, b" ", b"\t", b"\0", b"\xef\xbb\xbf", b"\x0b"):
        yield before + make.request()
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b"\x0b", b"\x85", b"\xe2\x80\xa8"):
        yield make.request().replace(b"\r\n", end)


def targets(make: Maker) -> Bytes:
    for target in (
        b"", b"*", b"?", b"#", b".", b"..", b"//", b"///", b"/..", b"/.", b"/../..", b"\\", b"/\\..", b"api/tasks",
        b"//evil.example", b"//evil.example/api/tasks", b"///evil.example", b"/\\evil.example", b"/%5cevil.example",
        b"http://evil.example/api/tasks", b"HTTP://test/api/tasks", b"http://", b"http:///api/tasks", b"http:api/tasks",
        b"https://test:99999/api/tasks", b"http://a@b@c/api/tasks", b"http://[::1/api/tasks", b"file:///etc/passwd",
        b"gopher://test/", b"javascript:alert(1)", b"test:80", b":80", b"http://test:port/", b"http://\xff/",
        b"/api//tasks", b"/api/tasks/", b"/api/tasks//", b"//api/tasks", b"/API/tasks", b"/api/tasks#x",
        b"/api/tasks;x=1",
        b"/api/tasks%00", b"/api/tasks%0a", b"/api/tasks%0d%0aX-Evil:%20y", b"/api/tasks\0", b"/api/tasks\x7f",
        b"/api/tasks\x01",
        b"/api/tasks/%2e%2e", b"/api/tasks/%2e%2e/%2e%2e/etc/passwd", b"/api/%2e%2e/health", b"/health/../api/tasks",
        b"/health/%2e%2e/api/tasks", b"/%2e%2e/", b"/%2e/api/tasks", b"/%252e%252e/", b"/..%2f..%2f", b"/..%c0%af",
        b"/%c0%ae%c0%ae/",
        b"/%61pi/tasks", b"/api%2ftasks", b"/api/tasks/stats%2f", b"/api/tasks/stats/", b"/api/tasks/%73tats",
        b"/api/tasks/transfer",
        b"/%", b"/%2", b"/%zz", b"/%ff", b"/%ff%fe", b"/%80", b"/%ed%a0%80", b"/%f4%90%80%80", b"/%u0041", b"/\xff",
        b"/\xc3\xa9", b"/\xc3",
        b"/api/tasks/%ff", b"/api/tasks/\xff", b"/api/tasks/%ed%a0%80", b"/api/tasks/" + b"a" * 9000,
        b"/api/tasks/" + b"%41" * 3000,
        b"/" * 3000, b"/a" * 3000, b"/%2f" * 3000, b"/" + b"%00" * 3000, b"/" + b"\xf0\x9f\x98\x80" * 2000,
        b"/.." * 3000,
        b"/{id}", b"/api/tasks/{id}", b"/|", b"/<script>", b"/'\"", b"/$(id)", b"/`", b"/^", b"/~", b"/@", b"/:",
        b"/;", b"/,",
        b"/docs/../openapi.json", b"/docs/assets/../../../pyproject.toml", b"/docs/assets/..%2f..%2f",
        b"/docs/assets/%00", b"/docs/\xff",
        b"/health%00", b"/health\n", b"/health/db/", b"/health//db", b"/openapi.json/", b"/openapi.json%20",
        b"/.git/config", b"/.env",
    ):
        yield make.request(b"GET", target, b"Connection: close")
    for suffix in (
        b"%00", b"%0a", b"\0", b"/", b"/%2e%2e", b"%20", b"-", b"?completed=true", b"/toggle", b"/toggle/", b";",
        b"{",
    ):
        for method in (b"GET", b"DELETE", b"PATCH"):
            yield make.request(method, make.task + suffix, b"Connection: close")


def queries(make: Maker) -> Bytes:
    for query in (
        b"", b"?", b"&", b"=", b"&" * 2000, b"=" * 2000, b"&=" * 2000, b"a&" * 101, b"a=1&" * 3000, b"%", b"%zz",
        b"%ff", b"\xff", b"\0", b"#",
        b"limit", b"limit=", b"limit=%00", b"limit=\0", b"limit=%ff", b"limit=\xff", b"limit=%EF%BC%91",
        b"limit=\xef\xbc\x91", b"limit=%D9%A1",
        b"limit=1e3", b"limit=1.0", b"limit=0x1", b"limit=1_0", b"limit=-0", b"limit=+1", b"limit=%2b1", b"limit=%201",
        b"limit=1%0a", b"limit=01",
        b"limit=0", b"limit=-1", b"limit=501", b"limit=NaN", b"limit=Infinity", b"limit=null", b"limit=" + b"9" * 4000,
        b"limit=" + b"9" * 25_000,
        b"limit=1&limit=1", b"limit=1&limit=2", b"limit[]=1", b"limit=1;skip=1", b"%6cimit=1", b"LIMIT=1",
        b"limit%00=1", b"limit =1", b"limit=1,2",
        b"skip=-1", b"skip=2147483647", b"skip=2147483648", b"skip=9223372036854775808", b"skip=18446744073709551616",
        b"skip=1e400",
        b"completed=TRUE", b"completed=1", b"completed=%74rue", b"completed=true%00", b"completed=",
        b"completed=true&completed=false",
        b"cursor=", b"cursor=%ff", b"cursor=" + b"A" * 32, b"cursor=" + b"%41" * 32, b"cursor=" + b"A" * 9000,
        b"cursor=" + b"\xff" * 32,
        b"cursor=" + b"%C3%A9" * 16, b"cursor=" + b"=" * 32, b"cursor=%00" * 32, b"cursor=../../../etc/passwd",
        b"user_id=bob", b"__proto__=1", b"id=1%20OR%201=1", b"limit=1'--", b"limit=1;DROP%20TABLE%20tasks",
        b"limit=${7*7}", b"limit={{7*7}}",
    ):
        yield make.request(b"GET", b"/api/tasks?" + query, b"Connection: close")
    for query in (
        b"", b"?completed", b"?completed=", b"?completed=True", b"?completed=true&completed=true", b"?completed=%00",
        b"?completed=\xff",
    ):
        yield make.request(b"DELETE", b"/api/tasks" + query, b"Connection: close")


def hosts(make: Maker) -> Bytes:
    rest = make.request(usual=(b"Authorization: Bearer " + make.token,)).partition(b"\r\n")[2]
    for host in (
        b"", b" ", b"a b", b"test:99999", b"test:port", b"test:-1", b"[::1", b"[::1]:80:80", b"evil.example/../",
        b"evil.example#@test",
    ):
        yield b"GET /api/tasks HTTP/1.1\r\nHost: " + host + b"\r\n" + rest
    for host in (
        b"\0", b"\xff", b"\xc3\xa9", b"user@test", b"a,b", b"test\\", b"<script>", b"%00", b"a" * 9000, b"..",
        b"test\r\n\tx",
    ):
        yield b"GET /api/tasks HTTP/1.1\r\nHost: " + host + b"\r\n" + rest
    yield b"GET /api/tasks HTTP/1.1\r\n" + rest
    yield b"GET /api/tasks HTTP/1.1\r\nHost: test\r\nHost: test\r\n" + rest
    yield b"GET /api/tasks HTTP/1.1\r\nHost: test\r\nHost: evil.example\r\n" + rest
    yield b"GET http://test/api/tasks HTTP/1.1\r\nHost: evil.example\r\n" + rest


def headers(make: Maker) -> Bytes:
    for header in (
        b"X: a\r\n b", b"X: a\r\n\tb", b"X:\r\n a", b" X: a", b"\tX: a", b"X", b"X a", b": a", b":", b"X : a",
        b"X\t: a", b"X\0: a", b"X: a\0b",
        b"X: a\rb", b"X: a\nb", b"X: a\r\r\n", b"X: \x01\x02", b"X: \x7f", b"X: \xff\xfe", b"X: \xc3\xa9", b"\xff: a",
        b"X(): a", b"X\xc2\xa0: a",
        b"X: " + b"a" * 30 * KIB, b"X: " + b"a" * 31 * KIB, b"X: " + b"a" * 33 * KIB, b"X: " + b"a" * 100 * KIB,
        b"a" * 31 * KIB + b": x",
        b"a" * 33 * KIB + b": x", b"\r\n".join(b"X: a" for _ in range(1000)),
        b"\r\n".join(b"X: a" for _ in range(6000)),
        b"\r\n".join(b"X-%d: a" % number for number in range(2000)), b"X: a\r\n" + b" b\r\n" * 2000 + b"Y: c",
        b"X:" + b" " * 20 * KIB + b"a", b"If-None-Match: x" + b" " * 30_000 + b"x",
        b"If-Match: x" + b" " * 30_000 + b"x", b"If-None-Match: " + b'"' * 30_000, b"If-Match: " + b'W/"' * 10_000,
        b"Connection: " + b"close, " * 3000, b"Connection: \xff", b"Connection: keep-alive, close, upgrade",
        b"Keep-Alive: timeout=-1",
        b"Expect: 100-continue", b"Expect: 200-ok", b"Expect: \xff", b"TE: trailers, deflate;q=0.5",
        b"Trailer: Content-Length",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
        b"Upgrade: h2c\r\nConnection: Upgrade",
        b"Upgrade: TLS/1.0\r\nConnection: Upgrade",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM",
        b"X-HTTP-Method-Override: DELETE", b"X-Original-URL: /health", b"X-Rewrite-URL: /health",
        b"X-Forwarded-For: \xff", b"Forwarded: for=\"",
        b"X-Forwarded-Host: evil.example", b"X-Forwarded-Proto: \0", b"X-Forwarded-Prefix: //evil.example",
        b"Via: 1.1 \xff",
        b"X-Request-ID: \xff", b"X-Request-ID: " + b"a" * 129, b"X-Request-ID: a b", b"X-Request-ID: %0d%0aX: y",
        b"X-Request-ID:", b"X-Request-ID: a\x0bb",
        b"X-Request-ID:" + b" " * 30_000 + b"\nX: y", b"X-Request-ID:" + b" " * 33 * KIB,
        b"Origin: null", b"Origin: \xff", b"Origin: http://localhost:3000.evil.example",
        b"Origin: http://localhost:3000\0", b"Origin: a\r\nOrigin: b",
        b"Range: bytes=0-", b"Range: bytes=" + b"0-0," * 5000, b"If-Match: *", b"If-Modified-Since: \xff",
        b"If-Modified-Since: " + b"9" * 5000,
        b"Accept: \xff", b"Accept: " + b"*/*;q=0.1," * 2000, b"Accept-Language: " + b"x" * 20_000,
        b"Accept-Encoding: gzip;q=NaN", b"Cookie: " + b"a=b;" * 5000,
        b"Content-Encoding: gzip", b"Content-Encoding: deflate, gzip", b"Content-Type: text/plain",
        b"Proxy-Connection: x", b"Max-Forwards: -1",
    ):
        yield make.request(b"GET", b"/api/tasks", header)
        if len(header) < 100:
            yield make.post(header, b"Content-Length: %d" % len(make.good_body))


def tokens(make: Maker) -> Bytes:
    for value in (
        b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Bearer\t", b"Bearer\0", b"bearer" + make.token, b"Bearer,",
        b"Bearer .", b"Bearer ..", b"Bearer ...",
        b"Bearer " + b"." * 9 * KIB, b"Bearer " + b"a" * 9 * KIB, b"Bearer " + b"a" * 30 * KIB,
        b"Bearer " + b"a." * 4 * KIB, b"Bearer " + b"\xff" * 9 * KIB,
        b"Bearer " + b"W" * 4000 + b"." + make.token.partition(b".")[2], b"Bearer " + make.token + b"A" * 9 * KIB,
        b"Bearer " + make.token + b"=",
        b"Bearer " + make.token[:-1], b"Bearer " + make.token + b"\xff",
        b"Bearer " + make.token + b", Bearer " + make.token, b"Bearer Bearer " + make.token,
        b"Bearer " + b"eyJhbGciOiJub25lIn0.e30.", b"Bearer " + b"e30.e30.e30", b"Bearer " + b"bnVsbA.bnVsbA.bnVsbA",
        b"Bearer \x01", b"Bearer %00",
        b"Basic eDp5", b"Basic \xff", b"Digest x", b"Negotiate", b"\xff", b"a" * 9 * KIB, b"Bearer\r\n " + make.token,
        b"Bearer a\r\nAuthorization: Bearer b",
    ):
        yield make.request(usual=(b"Host: test", b"Authorization: " + value, b"Connection: close"))


def lengths(make: Maker) -> Bytes:
    values: list[bytes] = [
        b"", b" ", b"-1", b"-0", b"+5", b"0x22", b"3 4", b"34,34", b"34, 35", b"x", b"34x", b"x34", b"3e1", b"34.0",
        b"34;", b"\xd9\xa3\xd9\xa4", b"34\0",
        b"0034", b"0" * 5000 + b"34", b"9" * 19, b"9" * 20, b"9" * 400, b"9" * 20_000, b"2147483648", b"4294967296",
        b"4294967330", b"9223372036854775807",
        b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"18446744073709551650", b"0", b"1",
        b"33", b"35", b"65536", b"65537", b"1048577",
    ]
    for value in values:
        yield make.post(b"Content-Length: " + value)
        yield make.post(b"Content-Length: 34", b"Content-Length: " + value)
    for spelled in (
        b"Content-Length : 34", b"Content-Length\t: 34", b" Content-Length: 34", b"Content_Length: 34",
        b"Content-Length:\r\n 34", b"\x0bContent-Length: 34",
    ):
        yield make.post(spelled)
    yield make.post(b"Content-Length: 65537", body=b"x" * 65_537)
    yield make.post(b"Content-Length: 200000", body=b"x" * 200_000)
    yield make.post(b"Content-Length: 65537", b"Expect: 100-continue", body=b"")
    yield make.request(b"GET", b"/api/tasks", b"Content-Length: 5", body=b"GET /")
    yield make.request(b"DELETE", make.task, b"Content-Length: 70000", body=b"x")


CHUNKED = b"Transfer-Encoding: chunked"


def codings(make: Maker) -> Bytes:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(make.good_body), make.good_body)
    for value in (
        b"", b"gzip", b"identity", b"chunked, chunked", b"chunked, identity", b"identity, chunked", b"gzip, chunked",
        b"chunked, gzip", b"xchunked", b"chunkedx",
        b" chunked ", b"\tchunked", b"CHUNKED", b"Chunked", b"chunked;q=1", b"chunked\x0b", b'"chunked"', b"chu nked",
        b"chunked\0", b"\xffchunked", b",chunked",
        b"chunked,", b"chunked\r\n ,gzip", b"cow", b"chunked\r\nTransfer-Encoding: cow",
        b"cow\r\nTransfer-Encoding: chunked", b"chunked\r\n" + CHUNKED,
    ):
        yield make.post(b"Transfer-Encoding: " + value, body=body)
        yield make.post(b"Transfer-Encoding: " + value, b"Content-Length: %d" % len(body), body=body)
    for length in (b"0", b"5", b"34", b"-1", b"x"):
        yield make.post(b"Content-Length: " + length, CHUNKED, body=body)
        yield make.post(CHUNKED, b"Content-Length: " + length, body=body)
    for spelled in (
        b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked", b" " + CHUNKED, b"X: y\n" + CHUNKED,
        b"transfer-encoding:chunked", b"\0" + CHUNKED,
    ):
        yield make.post(spelled, b"Content-Length: 6", body=body)
    yield make.request(b"POST", b"/api/tasks", CHUNKED, body=body, version=b" HTTP/1.0")
    yield make.request(b"GET", b"/api/tasks", CHUNKED, body=body)


def chunks(make: Maker) -> Bytes:
    body = make.good_body
    for size in (
        b"", b" ", b"g", b"-1", b"+22", b"0x22", b" 22", b"22 ", b"\t22", b"22\0", b"f" * 15, b"f" * 16, b"f" * 17,
        b"f" * 5000, b"0" * 1000 + b"22", b"7fffffff",
        b"80000000", b"ffffffff", b"100000022", b"7fffffffffffffff", b"8000000000000000", b"10000000000000022", b"21",
        b"23", b"1", b"0", b"22;", b"22;a", b"22;a=b",
        b'22;a="b"', b'22;a="\r\n"', b"22;a=\xff", b"22;\0", b"22;" + b"a" * 9000, b"22;" + b"a" * 40_000,
        b"22;a=b" * 3000, b"22,a", b"22\r", b"22\n", b"22 ;a", b"\xb2",
    ):
        yield make.post(CHUNKED, body=size + b"\r\n" + body + b"\r\n0\r\n\r\n")
    for whole in (
        b"22\r\n" + body, b"22\r\n" + body + b"0\r\n\r\n", b"22\r\n" + body + b"\n0\n\n", b"22\n" + body + b"\n0\n\n",
        b"22\r" + body + b"\r0\r\r",
        b"22\r\n" + body + b"\r\n0\r\n", b"22\r\n" + body + b"\r\n", b"22\r\n" + body + b"\r\n0",
        b"22\r\n" + body + b"xx0\r\n\r\n", b"\r\n22\r\n" + body + b"\r\n0\r\n\r\n",
        b"0\r\n\r\n", b"0\r\n", b"", b"\r\n\r\n", b"\0", b"22\r\n", b"2",
        b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
        b"1\r\n \r\n" * 5000 + b"0\r\n\r\n", b"1\r\n \r\n" * 30_000 + b"0\r\n\r\n",
        b"10001\r\n" + b" " * 65_537 + b"\r\n0\r\n\r\n", b"fffff\r\n" + b" " * 100_000,
    ):
        yield make.post(CHUNKED, body=whole)
    for trailer in (
        b"X: y", b"Content-Length: 5", CHUNKED, b"Host: evil.example", b"X", b": y", b"\0", b" X: y",
        b"X: " + b"y" * 33 * KIB, b"X: y\r\n" * 9000, b"\xff: \xff",
    ):
        yield make.post(CHUNKED, body=b"22\r\n" + body + b"\r\n0\r\n" + trailer + b"\r\n\r\n")


def bodies(make: Maker) -> Bytes:
    many = 30_000
    for body in (
        b"", b" ", b"null", b"true", b"0", b"-0", b"[]", b"{}", b"{", b"}", b"[", b'"', b"'", b"\0", b"\xff",
        b"\xef\xbb\xbf{}", b"{}{}", b"{},", b"{}\0", b"\0{}",
        b'{"title": "a"}\0', b'{"title": "a"}x', b'{"title": "a",}', b"{'title': 'a'}", b'{title: "a"}',
        b'{"title" "a"}', b'{"title": "a"', b'{"title": "a}',
        '{"title": "a"}'.encode("utf-16"), '{"title": "a"}'.encode("utf-16-le"), '{"title": "a"}'.encode("utf-32"),
        b'{"title": "\xff"}', b'{"title": "\xc3"}',
        b'{"title": "\xed\xa0\x80"}', b'{"title": "\xc0\x80"}', b'{"title": "\\ud800"}',
        b'{"title": "\\udc00\\ud800"}', b'{"\\ud800": 1}', b'{"title": "\\u0000"}',
        b'{"title": "a\0b"}', b'{"title": "a\nb"}', b'{"title": "\\x41"}', b'{"title": "\\u00"}',
        b'{"title": "a", "title": "b"}', b'{"title": "a", "\\u0074itle": "b"}',
        b'{"title": NaN}', b'{"title": Infinity}', b'{"title": -Infinity}', b'{"completed": 1e400, "title": "a"}',
        b'{"title": 1e999999999}', b'{"title": 0.1e-999999999}',
        b'{"title": ' + b"9" * 5000 + b"}", b'{"title": -' + b"9" * 60_000 + b"}", b"9" * 5000, b"9" * 65_000,
        b"1" + b"0" * 4299, b'{"title": 1.' + b"9" * 60_000 + b"}",
        b"[" * 60_000, b"[" * 100_000, b'{"a":' * 12_000, b'{"title":' * 7000, b"[" * 500 + b"]" * 500,
        b"[" * many + b"]" * many, b'{"x":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"title":' + b"[" * many + b"]" * many + b"}", b'{"a":' * 9000 + b"1" + b"}" * 9000, b"[[],[]," * 9000,
        b'["' * many, b'"' + b"\\" * 60_000, b'"' + b"\\u0041" * 9000 + b'"',
        b'{"title": "' + b"a" * 65_000 + b'"}', b'{"title": "' + b"\\n" * many + b'"}',
        b'{"title": "' + b" " * 65_000 + b'"}',
        b'{"title": "a", "description": "' + b"\xf0\x9f\x98\x80" * 16_000 + b'"}',
        b"{" + b",".join(b'"%d":1' % number for number in range(6000)) + b"}",
        b"{" + b",".join(b'"title":1' for _ in range(6000)) + b"}", b"[" + b"1," * many + b"1]",
        b'{"title": "a", "__proto__": {}}', b'{"title": "a", "user_id": "bob"}', b'{"title": {"$ne": null}}',
        b'{"title": ["a"]}', b'{"title": true}', b'{"title": "a", "completed": "yes"}',
        b'{"title": "a", "description": 5}', b"title=a", b"<task/>", b"--x\r\nContent-Disposition: form-data\r\n",
        b"\x1f\x8b\x08\0\0\0\0\0", b"PK\x03\x04", b" " * 65_536, b" " * 65_537,
        b"\n" * 60_000 + b"{}", b"/*" * many, b"{" * 60_000, b'{"":' * 15_000, b"-" * 60_000, b"0" * 60_000,
        b"1e" * many, b"\\u" * many, b"nul" * 20_000, b"\xf0\x9f\x98\x80" * 16_000,
    ):
        yield make.sent(body)
        if len(body) < 50:
            yield make.sent(body, b"PATCH", make.task)
    own = make.task.rpartition(b"/")[2]
    for ids in (
        b"", b"1", b'"x"', b'"' + own + b'"', b'"' + own.upper() + b'"', b'"{' + own + b'}"',
        b'"urn:uuid:' + own + b'"', b"null", b"[]", b'"\\u0000"', b'"' + b"0" * 60_000 + b'"',
    ):
        many_ids = b",".join([ids] * (60_000 // (len(ids) + 1)))
        yield make.sent(b'{"task_ids": [' + ids + b'], "completed": false}', target=b"/api/tasks/bulk-complete")
        yield make.sent(b'{"task_ids": [' + many_ids + b"]}", target=b"/api/tasks/bulk-complete")
    for token in (
        b"", b".", b"..", b"a.b.c", b"\\u0000", b"a" * 9000, b"." * 60_000, b"a." * many, make.token,
        make.token + b"\\ud800", b"\xc3\xa9" * 4000,
    ):
        yield make.sent(b'{"from_token": "' + token + b'"}', target=b"/api/tasks/transfer")


def strangers(make: Maker) -> Bytes:
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2
    yield b"\x80\x2e\x01\x00\x02" + b"\0" * 40  # SSL 2
    yield from (
        b"SSH-2.0-OpenSSH_9.0\r\n", b"EHLO test\r\n", b"USER anonymous\r\n", b"*1\r\n$4\r\nPING\r\n", b"\x05\x01\x00",
        b"\x04\x01\0\x50\x7f\0\0\1\0",
    )
    yield from (
        b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x2f\xff\x53\x4d\x42", b"stats\r\n", b"JRMI\0\x02K",
        b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0",
    )
    yield b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + make.request()
    yield b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\0" * 12 + make.request()
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    yield from (
        b"", b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\xff" * 5000, b"\0" * 5000, b"\r\n" * 20_000,
        b"\n" * 50_000, b"GET", b"GET ", b"GET /", b"G",
    )
    yield from (
        b"GET /health", b"GET /health\r\n", b"GET /health\r\n\r\n", b"GET\r\n\r\n", b"A" * 50_000, b"GET / " * 9000,
        bytes(range(256)), bytes(range(256)) * 200,
    )
    yield from (
        b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", b"<policy-file-request/>\0", b"OPTIONS sip:x SIP/2.0\r\n\r\n",
        b"DESCRIBE rtsp://x RTSP/1.0\r\n\r\n",
    )


def pipelines(make: Maker) -> Bytes:
    good, health = make.good(), b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    yield from (
        health * 2, health * 100, good + health, health + good, good * 3, good + b"\0", good + b"garbage\r\n\r\n",
        good + b"\r\n\r\n" + health,
    )
    yield from (
        health + b"\0", b"\0" + health, health + b"GET /health HTTP/9.9\r\n\r\n" + health, health + b"GET",
        good[:-1] + health, good + b"x" + health,
    )
    closing = make.request(b"GET", b"/health", b"Connection: close")
    yield from (
        closing + health, closing * 2, closing + good, make.request(b"CONNECT", b"test:443") + good,
        make.request(b"GET", b"/health", b"Upgrade: x\r\nConnection: upgrade") + good,
    )
    for hidden in (b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"):
        yield make.post(b"Content-Length: %d" % len(hidden + good), CHUNKED, body=hidden + good)
        yield make.post(b"Content-Length: 5", CHUNKED, body=hidden + good)
        yield make.post(CHUNKED, body=hidden + good)
    yield make.request(b"GET", b"/api/tasks", b"Content-Length: 0", b"Content-Length: %d" % len(good), body=good)
    yield make.request(b"POST", b"/health", b"Content-Length: %d" % len(good), body=good)
    yield make.post(b"Content-Length: %d" % (len(good) + 10), b"Upgrade: h2c", b"Connection: Upgrade", body=good)


def pieces(make: Maker) -> Bytes:
    good = make.good()
    yield from (good[:end] for end in range(0, len(good), 9))
    chunked = make.post(CHUNKED, body=b"22\r\n" + make.good_body + b"\r\n0\r\n\r\n")
    yield from (chunked[:-missing] for missing in range(1, 47, 2))


# fmt: on
KINDS: dict[str, tuple[Callable[[Maker], Bytes], bool]] = {
    "request lines": (request_lines, True),
    "targets": (targets, True),
    "queries": (queries, True),
    "hosts": (hosts, True),
    "headers": (headers, True),
    "tokens": (tokens, True),
    "lengths": (lengths, True),
    "transfer codings": (codings, True),
    "chunks": (chunks, True),
    "bodies": (bodies, False),
    "other protocols": (strangers, True),
    "pipelines": (pipelines, True),
    "cut off": (pieces, True),
}


def table(make: Maker) -> dict[str, list[Hostile]]:
    """Return all of them, by kind."""
    return {kind: [Hostile(data, half_closed) for data in made(make)] for kind, (made, half_closed) in KINDS.items()}


def mutations(make: Maker, count: int, seed: int) -> list[Hostile]:
    """Return `count` of the table's shorter ones with some bytes changed, left out, doubled or put in."""
    chance = random.Random(seed)
    short = [each.data for kind in table(make).values() for each in kind if 0 < len(each.data) < 1000]
    return [Hostile(mutated(chance.choice(short), chance)) for _ in range(count)]


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at, size = chance.randrange(len(changed) + 1), chance.choice((1, 1, 4, 20))
        piece = changed[at : at + size]
        changed[at : at + size] = chance.choice(
            (b"", piece * 2, chance.randbytes(size), chance.choice((b"\r\n", b"\n", b"\0", b":", b" ", b"\xff", b"%")))
        )
    return bytes(changed)
