"""How many cases a fuzz test runs, and how bytes are mutated.

Every fuzz test runs twice: a quick subset by default, the full number with `-m slow`. Cases are
seeded, so a failure names the case that shows it again.
"""

import contextlib
import random
import signal

import pytest

CASE_LIMIT_S = 20  # of processor time, so a busy machine is no hang


class Fuzz:
    """The cases of one test: `for number, rng in fuzz.cases(quick, full)`, each with its limit."""

    def __init__(self, name, full):
        self.name, self.full = name, full
        self.tried = 0

    def cases(self, quick, full):
        for number in range(full if self.full else quick):
            self.tried += 1
            yield number, random.Random(f"{self.name} {number}")

    @contextlib.contextmanager
    def allowing(self, number, *declared):
        """Let a case end well or with a declared exception; fail on anything else, or a hang."""

        def hang(*_):
            raise TimeoutError(f"{self.name}, case {number}: no end after {CASE_LIMIT_S} s")

        before = signal.signal(signal.SIGPROF, hang)
        signal.setitimer(signal.ITIMER_PROF, CASE_LIMIT_S)
        try:
            yield
        except declared:
            pass
        except Exception as error:
            raise AssertionError(f"{self.name}, case {number}: {error!r}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    @staticmethod
    def mutated(data, rng):
        """Return bytes with a few flips, cuts, copies, insertions or interesting numbers."""
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            kind = rng.randrange(6)
            at = rng.randrange(len(out)) if out else 0
            if kind == 0 and out:
                out[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and out:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif kind == 2:
                del out[at : at + rng.choice((1, 4, 64, len(out)))]
            elif kind == 3:
                out[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
            elif kind == 4 and out:
                out[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f"))
            elif out:
                start = rng.randrange(len(out))
                out[at:at] = out[start : start + rng.choice((4, 32, 256))]
        return bytes(out)


@pytest.fixture(
    params=["quick", pytest.param("full", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def fuzz(request):
    fuzz = Fuzz(request.node.originalname, request.param == "full")
    yield fuzz
    # Properties travel with the report, also from another process.
    request.node.user_properties.append((f"fuzz {request.node.name}", fuzz.tried))
