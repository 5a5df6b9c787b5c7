"""The process that runs programs, one after another: the emulator asks it on standard input.

A question is a seed, a length and a request's body; an answer is a kind, a length and results or
the reason why there are none. The first answer says that the process is ready.
"""

import importlib
import json
import os
import struct
import sys
import warnings
from collections.abc import Callable
from typing import BinaryIO

from qsessions.emulator.programs import sandbox
from qsessions.emulator.programs.pubs import LARGEST, LONGEST_REASON, ProgramError
from qsessions.emulator.service.errors import INTERNAL_ERROR, PROGRAM_TOO_LARGE

QUESTION = struct.Struct(">QQ")
ANSWER = struct.Struct(">cQ")
READY, RESULTS, FAILURE = b"+", b"R", b"F"


def main(module: str) -> None:
    """Answer until standard input ends, with the function `run` of a module."""
    sandbox.bound()
    warnings.simplefilter("ignore")
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        run = importlib.import_module(module).run
    except Exception as error:  # noqa: BLE001 - libraries that don't fit fail in their own ways
        reason = f"{module} can't be imported: {type(error).__name__}: {error}"
        _write(answers, *_failure(reason[:LONGEST_REASON], INTERNAL_ERROR))
        return
    sandbox.lock()
    _write(answers, READY, b"")
    while len(header := questions.read(QUESTION.size)) == QUESTION.size:
        seed, length = QUESTION.unpack(header)
        body = questions.read(length)
        sandbox.set_alarm(on=True)
        _write(answers, *_answer(run, body, seed))
        sandbox.set_alarm(on=False)


def _answer(run: Callable[[bytes, int], bytes], body: bytes, seed: int) -> tuple[bytes, bytes]:
    try:
        results = run(body, seed)
    except ProgramError as error:
        return _failure(error.reason, error.code)
    except MemoryError:
        return _failure("the program needs more memory than there is", PROGRAM_TOO_LARGE)
    except BaseException as error:  # noqa: BLE001 - a panic of a library in Rust is no Exception
        return _failure(f"{type(error).__name__}: {error}"[:LONGEST_REASON])
    if len(results) > LARGEST:
        return _failure(f"the results have more than {LARGEST} bytes", PROGRAM_TOO_LARGE)
    return RESULTS, results


def _failure(*facts: object) -> tuple[bytes, bytes]:
    return FAILURE, json.dumps(facts).encode()


def _write(answers: BinaryIO, kind: bytes, content: bytes) -> None:
    answers.write(ANSWER.pack(kind, len(content)) + content)
    answers.flush()
