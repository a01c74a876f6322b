"""Scripts in processes of their own, in which transformers is there at once and nothing of ours is.

To import torch and transformers takes seconds of every such process. Here one process imports them once, and
a copy of it runs each script: as fresh as a new one in all that is ours, since nothing of ours was imported.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 240
"""Seconds that a script may take."""
FIRST = """
import json, os, signal, sys, traceback
import torch
import transformers.dynamic_module_utils, transformers.generation
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
torch.set_num_threads(1)
ours = {"analysis", "slicing", "app", "tests"}
assert not [name for name in sys.modules if name.partition(".")[0] in ours]


def run(asked):
    signal.alarm(asked["patience"])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if "HF_MODULES_CACHE" in asked["environment"]:  # which was read when transformers was imported
        transformers.dynamic_module_utils.HF_MODULES_CACHE = asked["environment"]["HF_MODULES_CACHE"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, place in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["-c", *asked["words"]]
    code = 0
    try:
        exec(compile(asked["script"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    if not (child := os.fork()):
        run(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Answer(NamedTuple):
    """How a script ended, as ``subprocess.run`` tells it."""

    returncode: int
    stdout: str
    stderr: str


@cache
def _first() -> Any:
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
        env=environment,
    )
    atexit.register(_end, process)
    return process


def _end(process: Any) -> None:
    process.communicate()


def alone(script: str, *words: object, cwd: Path, **environment: str) -> Answer:
    """Run a script where only transformers is known.

    Its modules of other people's models lie below the folder ``cwd``, where the script begins.
    """
    known = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cwd / "code")}
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        asked = {
            "script": script,
            "words": list(map(str, words)),
            "cwd": str(cwd),
            "environment": {**known, **environment},
            "out": str(out),
            "err": str(err),
            "patience": PATIENCE,
        }
        first = _first()
        first.stdin.write(json.dumps(asked) + "\n")
        first.stdin.flush()
        code = first.stdout.readline()
        return Answer(int(code), out.read_text(), err.read_text())
