"""The documents' code is code: what people copy compiles, all of it together."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENTS = ("README.md",)

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"// ([\w/-]+\.tsx?)\n")

NEXT = 'declare module "next/headers" {\n  export function headers(): Promise<Headers>;\n}\n'
"""All of Next.js that the blocks use: the package itself is a hundred megabytes."""


def texts() -> list[str]:
    return [(ROOT / name).read_text() for name in DOCUMENTS]


def blocks(wanted: str) -> list[str]:
    return [block for text in texts() for language, block in BLOCK.findall(text) if language == wanted]


def test_every_language_is_looked_at():
    languages = {
        found for name in DOCUMENTS if (ROOT / name).exists() for found, _ in BLOCK.findall((ROOT / name).read_text())
    }
    assert languages <= {"ts", "tsx", "js", "sh", "python", "json", "http", "text", "ini"}


CHECKS: dict[str, Callable[[str], object]] = {
    "sh": lambda text: subprocess.run(["bash", "-n"], input=text, text=True, check=True),
    "python": lambda text: compile(text, "README.md", "exec"),
    "json": json.loads,
}


@pytest.mark.parametrize("language", CHECKS)
def test_a_block_can_be_read(language: str):
    for text in blocks(language):
        CHECKS[language](text)


@pytest.fixture
def frontend(node: str, tmp_path: Path) -> Path:
    """A frontend of the blocks: one that begins with a comment of a file's name is that file, for others to import."""
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "next.d.ts").write_text(NEXT)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tasks.ts").write_text((ROOT / "backend/static/tasks.ts").read_text())
    for language in ("ts", "tsx", "js"):
        for number, text in enumerate(blocks(language)):
            named = NAME.match(text)
            (tmp_path / (named[1] if named else f"block-{number}.{language}")).write_text(text + "\nexport {};\n")
    return tmp_path


def test_what_is_typescript_compiles_strictly(node: str, frontend: Path):
    options = json.loads((HERE / "tsconfig.json").read_text())["compilerOptions"]
    options |= {"types": ["node"], "jsx": "react-jsx", "allowJs": True, "noEmit": True, "skipLibCheck": True}
    options["noPropertyAccessFromIndexSignature"] = True  # the strictest frontends have it
    config = {"compilerOptions": options, "include": ["*", "lib"]}
    (frontend / "tsconfig.json").write_text(json.dumps(config))
    compiler = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    result = subprocess.run([node, compiler, "-p", "."], cwd=frontend, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_only_what_changes_who_is_signed_in_ends_the_session(node: str, frontend: Path):
    bundle = frontend / "auth-client.mjs"
    bundler = HERE / "node_modules" / ".bin" / "esbuild"
    command = [
        str(bundler),
        "lib/auth-client.ts",
        "--bundle",
        "--format=esm",
        f"--outfile={bundle}",
        "--log-level=error",
    ]
    subprocess.run(command, cwd=frontend, check=True)
    result = subprocess.run([node, "auth-client.test.mjs", bundle], cwd=HERE, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_settings_of_a_deployment_can_be_pasted():
    """An `&` without quotes would end the command, and leave the rest out without an error."""
    [block] = [block for block in blocks("sh") if "export DATABASE_URL" in block]
    shown = subprocess.run(["bash", "-euc", block + "\nenv"], text=True, capture_output=True, check=True).stdout
    assert re.search(r"^DATABASE_URL=postgresql://.*&channel_binding=require$", shown, re.MULTILINE)
