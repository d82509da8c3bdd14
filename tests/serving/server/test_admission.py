"""The line in which requests wait: bounded, in order, and left at once by those that nobody waits for."""

import threading

import pytest
from serving_tools import eventually

from serving.protocol.status import Code, StatusError
from serving.server.admission import Call, Line


def entered(line, *, rows=1, call=None):
    """Takes a turn in a thread; returns (has it, let go, what was raised)."""
    has, leave, raised = threading.Event(), threading.Event(), []

    def take():
        try:
            with line.turn(call or Call(), rows):
                has.set()
                leave.wait(60)
        except StatusError as error:
            raised.append(error.code)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return has, leave, raised, thread


def refusal(line, call=None, rows=1):
    with pytest.raises(StatusError) as info, line.turn(call or Call(), rows):
        pass
    return info.value.code


def test_what_does_not_fit_is_refused_and_what_waits_comes_in_order():
    line = Line(inside=2, waiting=3)
    first = entered(line, rows=2)
    assert first[0].wait(30)
    waits = []
    for number, rows in enumerate((2, 1)):
        waits.append(entered(line, rows=rows))
        eventually(lambda number=number: len(line._queue) == number + 1)
    assert refusal(line) == Code.UNAVAILABLE
    assert not any(has.is_set() for has, *_ in waits)
    first[1].set()
    assert waits[0][0].wait(30)
    assert not waits[1][0].is_set()
    waits[0][1].set()
    assert waits[1][0].wait(30)
    waits[1][1].set()
    with line.turn(Call(), 2):
        pass


def test_a_request_larger_than_the_room_takes_all_of_it():
    line = Line(inside=2, waiting=2)
    with line.turn(Call(), 5):
        assert refusal(line, rows=9, call=Call(0.05)) == Code.DEADLINE_EXCEEDED
    with line.turn(Call(), 2):
        pass


def test_a_deadline_or_a_client_that_leaves_ends_the_wait():
    line = Line(inside=1, waiting=2)
    with line.turn(Call()):
        assert refusal(line, Call(0.05)) == Code.DEADLINE_EXCEEDED
        call = Call()
        _, _, raised, thread = entered(line, call=call)
        eventually(lambda: len(line._queue) == 1)
        call.end()
        thread.join(30)
        assert raised == [Code.CANCELLED]
        assert not line._queue
    assert refusal(line, Call(0)) == Code.DEADLINE_EXCEEDED
    assert refusal(line, Call(has_left=lambda: True)) == Code.CANCELLED
    with line.turn(Call(60)):
        pass


def test_many_threads_never_hold_more_than_there_is():
    line, lock, held, most = Line(inside=5, waiting=10_000), threading.Lock(), [0], [0]

    def work(seed):
        for number in range(200):
            rows = 1 + (seed + number) % 7
            with line.turn(Call(), rows):
                with lock:
                    held[0] += min(rows, 5)
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= min(rows, 5)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 5
    with line.turn(Call(1), 5):
        pass
