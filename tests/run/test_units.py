"""Units: only what is missing is computed, a failure is kept with its reason, and a stop loses nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.errors import EnvironmentProblem, GateFailed, InputError
from patchlight.run.progress import Progress
from patchlight.run.units import Ran, Unit, Workplace, code_version, run_units
from patchlight.store.ledger import Ledger
from patchlight.store.results import Result

STUDY = "5" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "workspace") as ledger, ledger.driving():
        ledger.begin_study(STUDY, "title", "yaml", "study.yaml", "study")
        yield ledger


def squares(count: int, log: list[int], before: Callable[[int], None] = lambda number: None) -> list[Unit]:
    """Units that square a number and write into `log` that they did."""

    def unit(number: int) -> Unit:
        def work(place: Workplace) -> Result:
            before(number)
            log.append(number)
            return Result({"square": number**2}, {"values": {"square": np.array([number**2])}})

        return Unit("squares", f"square of {number}", {"number": number}, work)

    return [unit(number) for number in range(count)]


def run(ledger: Ledger, units: list[Unit]) -> Ran:
    return run_units(ledger, units, Progress(), study=STUDY)


def test_everything_is_computed_once_and_found_again(ledger: Ledger) -> None:
    log: list[int] = []
    first = run(ledger, squares(5, log))
    second = run(ledger, squares(7, log))
    assert log == [0, 1, 2, 3, 4, 5, 6]
    assert (first.computed, second.computed) == (5, 2)
    assert [artifact.meta["square"] for artifact in second.artifacts.values()] == [0, 1, 4, 9, 16, 25, 36]
    assert [row.state for row in ledger.units(STUDY)] == ["done"] * 7


def test_the_same_unit_twice_is_one_unit(ledger: Ledger) -> None:
    log: list[int] = []
    ran = run(ledger, squares(3, log) + squares(3, log))
    assert log == [0, 1, 2]
    assert len(ran.artifacts) == 3


def test_no_units_is_nothing_to_do(ledger: Ledger) -> None:
    ran = run(ledger, [])
    assert (ran.computed, ran.failed_share) == (0, 0.0)


def test_a_unit_that_raises_is_recorded_and_the_others_go_on(ledger: Ledger) -> None:
    def seven_fails(number: int) -> None:
        if number == 7:
            raise FloatingPointError("NaN in layer 3")

    log: list[int] = []
    ran = run(ledger, squares(10, log, seven_fails))
    assert log == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [(failure.unit.label, failure.reason) for failure in ran.failures] == [
        ("square of 7", "FloatingPointError: NaN in layer 3")
    ]
    assert ran.failed_share == 0.1
    assert [row.reason for row in ledger.units(STUDY) if row.state == "failed"] == [
        "FloatingPointError: NaN in layer 3"
    ]
    healed = run(ledger, squares(10, log))
    assert (healed.computed, healed.failures, log[-1]) == (1, (), 7)


@pytest.mark.parametrize("stop", [InputError("pairs-none", "no pairs"), GateFailed("gate-self-patch", "no identity")])
def test_bad_input_and_a_failed_gate_stop_at_once(ledger: Ledger, stop: Exception) -> None:
    def three_stops(number: int) -> None:
        if number == 3:
            raise stop

    log: list[int] = []
    with pytest.raises(type(stop)) as caught:
        run(ledger, squares(10, log, three_stops))
    assert caught.value is stop
    assert log == [0, 1, 2]
    assert run(ledger, squares(10, log)).computed == 7


def test_an_interrupt_keeps_what_is_done(ledger: Ledger) -> None:
    def interrupted(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    log: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run(ledger, squares(6, log, interrupted))
    assert [row.state for row in ledger.units(STUDY)] == ["done"] * 4 + ["planned"] * 2
    assert run(ledger, squares(6, log)).computed == 2


def test_a_full_disk_inside_the_work_is_told_as_such(ledger: Ledger) -> None:
    def full(number: int) -> None:
        with Path("/dev/full").open("w") as stream:
            stream.write("a checkpoint of number " + str(number))

    with pytest.raises(EnvironmentProblem) as caught:
        run(ledger, squares(2, [], full))
    assert caught.value.code == "store-disk-full"
    assert run(ledger, squares(2, [])).computed == 2


def test_a_damaged_result_is_computed_again_and_the_others_are_not(ledger: Ledger) -> None:
    log: list[int] = []
    ran = run(ledger, squares(5, log))
    digests = [artifact.digest for artifact in ran.artifacts.values()]
    [name] = list(ran.artifacts.values())[2].parts["values"]["files"].values()
    ledger.files.path(name).write_bytes(b"other bytes")
    again = run(ledger, squares(5, log))
    assert log == [0, 1, 2, 3, 4, 2]
    assert [artifact.digest for artifact in again.artifacts.values()] == digests


def test_a_unit_works_in_its_own_folder_and_gives_it_back(ledger: Ledger) -> None:
    def train(place: Workplace) -> Result:
        (place.folder / "model").mkdir()
        (place.folder / "model" / "weights").write_bytes(b"w" * 1000)
        (place.folder / "optimizer").write_bytes(b"o" * 1000)
        return Result({}, {"model": place.folder / "model"})

    [artifact] = run(ledger, [Unit("training", "model", {"seed": 1}, train)]).artifacts.values()
    assert [(path.name, path.read_bytes()) for path in artifact.folder("model").iterdir()] == [("weights", b"w" * 1000)]
    assert list(ledger.files.scratch.iterdir()) == []


def nothing(place: Workplace) -> Result:
    return Result()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(inputs=st.dictionaries(st.text(), json_values, max_size=5))
def test_the_hash_knows_the_inputs_and_not_their_order_or_label(inputs: dict[str, object]) -> None:
    unit = Unit("sweep", "a", inputs, nothing)
    turned = Unit("sweep", "another label", dict(reversed(inputs.items())), nothing)
    assert unit.hash == turned.hash
    assert unit.hash != Unit("sweep", "a", {**inputs, "one more": 1}, nothing).hash
    assert unit.hash != Unit("screen", "a", inputs, nothing).hash


def test_the_hash_knows_the_code_of_its_rooms() -> None:
    assert code_version(("model",)) == code_version(("model",))
    assert code_version(("model",)) != code_version(("model", "trace"))
    narrow, wide = (Unit("s", "l", {}, nothing, rooms) for rooms in (("model",), ("model", "trace")))
    assert narrow.hash != wide.hash


def test_not_a_number_is_no_input() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Unit("sweep", "a", {"floor": float("nan")}, nothing).hash
