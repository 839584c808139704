"""A plugin of pytest that takes the owner out of every statement, to show that the tests of isolation would see it.

`backend.services.rows` is compiled with an `owned()` that accepts every row. It still takes the owner as a parameter,
so that every statement runs: what the tests must see is other users' tasks, not an error.
"""

import ast
import importlib.util
import sys

from backend import services

NAME = "backend.services.rows"


class _Mutation(ast.NodeTransformer):
    count = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if node.name == "owned":
            everybody = 'return statement.where(bindparam("owner", type_=tasks.c.user_id.type) != "")'
            node.body = ast.parse(everybody).body
            self.count += 1
        return node


def _load() -> None:
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.loader is not None
    source = spec.loader.get_source(NAME)  # type: ignore[attr-defined] # a loader of files has it
    mutation = _Mutation()
    tree = ast.fix_missing_locations(mutation.visit(ast.parse(source)))
    assert mutation.count == 1
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    exec(compile(tree, str(spec.origin), "exec"), module.__dict__)
    services.rows = module  # type: ignore[attr-defined] # what an import statement does


_load()
