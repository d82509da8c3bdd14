"""Admission: queues are bounded and served in order, a wait ends with its client, and unread answers are bounded."""

import functools
import threading

import pytest
from serving_tools import eventually

from serving.protocol.status import LATE, LEFT, QUEUE_FULL, UNREAD, Code, StatusError
from serving.server.admission import AdmissionQueue, Call, RequestMemory, UnreadAnswers


class Holder:
    """A thread that asks for a slot, holds it until `release`, and remembers the code of a refusal."""

    def __init__(self, queue, *, units=1, call=None):
        self.granted, self.refused = threading.Event(), None
        self._release = threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(queue, units, call or Call()), daemon=True)
        self.thread.start()

    def _hold(self, queue, units, call):
        try:
            with queue.slot(call, units):
                self.granted.set()
                self._release.wait(60)
        except StatusError as error:
            self.refused = error.code

    def release(self):
        self._release.set()


def refusal(queue, call=None, units=1):
    with pytest.raises(StatusError) as info, queue.slot(call or Call(), units):
        pass
    return info.value.code, info.value.message


def test_a_full_queue_refuses_and_requests_are_served_in_order():
    queue = AdmissionQueue(capacity=2, max_waiting=3)
    first = Holder(queue, units=2)
    assert first.granted.wait(30)
    waiting = []
    for number, units in enumerate((2, 1)):
        waiting.append(Holder(queue, units=units))
        eventually(lambda number=number: len(queue._queue) == number + 1)
    assert refusal(queue) == (Code.UNAVAILABLE, QUEUE_FULL)
    assert not any(holder.granted.is_set() for holder in waiting)
    first.release()
    assert waiting[0].granted.wait(30)
    assert not waiting[1].granted.is_set()
    waiting[0].release()
    assert waiting[1].granted.wait(30)
    waiting[1].release()
    with queue.slot(Call(), 2):
        pass


def test_a_request_for_more_than_the_capacity_gets_all_of_it():
    queue = AdmissionQueue(capacity=2, max_waiting=2)
    with queue.slot(Call(), 5):
        assert refusal(queue, units=9, call=Call(0.05)) == (Code.DEADLINE_EXCEEDED, LATE)
    with queue.slot(Call(), 2):
        pass


def test_a_deadline_or_a_disconnected_client_ends_the_wait():
    queue = AdmissionQueue(capacity=1, max_waiting=2)
    with queue.slot(Call()):
        assert refusal(queue, Call(0.05)) == (Code.DEADLINE_EXCEEDED, LATE)
        call = Call()
        waiting = Holder(queue, call=call)
        eventually(lambda: len(queue._queue) == 1)
        call.cancel()
        waiting.thread.join(30)
        assert waiting.refused == Code.CANCELLED
        assert not queue._queue
    assert refusal(queue, Call(0)) == (Code.DEADLINE_EXCEEDED, LATE)
    assert refusal(queue, Call(is_cancelled=lambda: True)) == (Code.CANCELLED, LEFT)
    with queue.slot(Call(60)):
        pass


def test_many_threads_never_hold_more_than_the_capacity():
    queue, lock, held, most = AdmissionQueue(capacity=5, max_waiting=10_000), threading.Lock(), [0], [0]

    def work(seed):
        for number in range(200):
            units = 1 + (seed + number) % 7
            with queue.slot(Call(), units):
                with lock:
                    held[0] += min(units, 5)
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= min(units, 5)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 5
    with queue.slot(Call(1), 5):
        pass


def test_unread_answers_are_bounded_and_old_ones_are_dropped_once_memory_is_needed():
    unread, dropped = UnreadAnswers(max_bytes=10, timeout_s=0.0), []
    free = unread.add(30, lambda: None)  # a single answer may be larger than the bound
    free()
    free()

    def drop(number: int) -> None:
        dropped.append(number)
        frees[number]()

    frees = [unread.add(5, functools.partial(drop, number)) for number in range(2)]
    with pytest.raises(StatusError, match=UNREAD):
        unread.add(1, lambda: None)
    assert dropped == [0, 1]
    unread.add(10, lambda: None)()


def test_a_fresh_unread_answer_is_not_dropped():
    unread, dropped = UnreadAnswers(max_bytes=10, timeout_s=60.0), []
    unread.add(10, lambda: dropped.append(1))
    with pytest.raises(StatusError, match=UNREAD):
        unread.add(1, lambda: None)
    assert not dropped


def test_memory_for_requests_is_bounded_and_refuses_at_once():
    memory = RequestMemory(1 << 20)
    with memory.slot(Call(), 1 << 19), memory.slot(Call(), 1000):
        with pytest.raises(StatusError) as info, memory.slot(Call(), (1 << 19) + 1):
            pass
        assert (info.value.code, "memory" in info.value.message) == (Code.UNAVAILABLE, True)
        with pytest.raises(StatusError) as info, memory.slot(Call(), (1 << 20) + 1):
            pass
        assert info.value.code == Code.RESOURCE_EXHAUSTED
    with memory.slot(Call(), 1 << 20):
        pass
