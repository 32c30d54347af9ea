import itertools
import random
import threading
import time

import pytest

from curation.fetch.turns import Hosts, Turns


def urls(**counts):
    return [f"http://{name}.test/{n}" for name, count in counts.items() for n in range(count)]


def serve(turns, num_urls, num_threads, work):
    """Take every turn in threads, as img2dataset's pool does; each URL is given to ``work``."""
    tokens = iter(range(num_urls))
    lock = threading.Lock()

    def run():
        while True:
            with lock:
                if next(tokens, None) is None:
                    return
            work(turns)

    threads = [threading.Thread(target=run) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive(), "a thread waits for ever"


def test_every_url_once_and_hosts_apart():
    wanted = urls(a=6, b=2, c=1)
    hosts, given, lock = Hosts(), [], threading.Lock()

    def work(turns):
        turn = turns.take()
        with lock:
            given.append((time.monotonic(), wanted[turn.position]))
        turns.done(turn.position)

    serve(Turns(wanted, lambda _: 0.05, 4, hosts), len(wanted), 8, work)
    assert sorted(url for _, url in given) == sorted(wanted)
    for name in "ab":
        moments = sorted(at for at, url in given if f"//{name}." in url)
        assert min(after - before for before, after in itertools.pairwise(moments)) > 0.04
    assert [url for _, url in given[:3]] != wanted[:3], "a host that may be asked waited for one that may not"


@pytest.mark.parametrize(("connections", "most"), [(1, 1), (3, 3), (100, 8)])
def test_no_more_connections_than_allowed(connections, most):
    wanted = urls(a=40)
    out, seen, lock = [0], [], threading.Lock()

    def work(turns):
        turn = turns.take()
        with lock:
            out[0] += 1
            seen.append(out[0])
        time.sleep(0.002)
        with lock:
            out[0] -= 1
        turns.done(turn.position)

    serve(Turns(wanted, lambda _: 1e-6, connections, Hosts()), len(wanted), 8, work)
    assert max(seen) <= most
    assert len(seen) == 40


def test_urls_that_come_back_are_given_again_and_nobody_waits_for_ever():
    wanted, dice = urls(a=20, b=20), random.Random(0)
    fails = {position: dice.randrange(3) for position in range(40)}
    attempts, lock = [], threading.Lock()

    def work(turns):
        while True:
            turn = turns.take()
            with lock:
                attempts.append(turn)
            if turn.failures < fails[turn.position]:
                turns.put_back(turn, pause_s=0.003, host_pause_s=0.0)
                continue
            turns.done(turn.position)
            return

    serve(Turns(wanted, lambda _: 1e-6, 2, Hosts()), 40, 6, work)
    assert sorted(attempts) == sorted((p, failures) for p, most in fails.items() for failures in range(most + 1))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_later_shard_waits_for_the_turn_of_the_earlier_one():
    clock, hosts = Clock(), Hosts()
    first = Turns(urls(a=1), lambda _: 5.0, 4, hosts, clock)
    first.done(first.take().position)
    assert hosts.next_s == {"a.test": 105.0}
    second = Turns(urls(a=1), lambda _: 5.0, 4, hosts, clock)
    assert second.due_s() == 105.0
    clock.now = 106.0
    Turns([], lambda _: 5.0, 4, hosts, clock)
    assert hosts.next_s == {}


def test_a_host_that_asks_for_it_is_left_alone():
    clock, hosts = Clock(), Hosts()
    turns = Turns(urls(a=3, b=1), lambda _: 1.0, 1, hosts, clock)
    turn = turns.take()
    assert turn.position == 0
    turns.put_back(turn, pause_s=2.0, host_pause_s=30.0)
    assert turns.take().position == 3  # another host does not wait
    assert turns.due_s() == 130.0
    clock.now = 130.0
    assert turns.take() == (1, 0)
    turns.leave_alone(1, 7.0)
    turns.done(1)
    assert turns.due_s() == 137.0
    clock.now = 137.0
    assert turns.take() == (2, 0)  # what came back goes last


def test_a_redirect_waits_for_a_turn_of_its_own():
    hosts = Hosts()
    turns = Turns(urls(a=2), lambda _: 0.1, 4, hosts)
    began = time.monotonic()
    turn = turns.take()
    turns.again(turn.position)
    assert time.monotonic() - began > 0.09
    turns.take()
    assert time.monotonic() - began > 0.19
