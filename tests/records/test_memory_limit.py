"""The limit of a process's memory while a file is read."""

import threading

import pytest

from normscope.records.read_limits import limited_memory

resource = pytest.importorskip("resource")


def test_two_threads_leave_the_limit_of_the_process_as_it_was():
    before = resource.getrlimit(resource.RLIMIT_AS)
    inside, leave = threading.Event(), threading.Event()

    def first():
        with limited_memory(1 << 40):
            inside.set()
            leave.wait(10)

    def second():
        with limited_memory(1 << 41):
            done.append(resource.getrlimit(resource.RLIMIT_AS))

    done = []
    threads = [threading.Thread(target=each) for each in (first, second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert len(done) == 1
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_the_limit_ends_with_an_error_inside():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(KeyError), limited_memory(1 << 40), limited_memory(1 << 39):
        raise KeyError
    assert resource.getrlimit(resource.RLIMIT_AS) == before
